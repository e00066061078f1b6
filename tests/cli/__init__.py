"""The command line against a scripted daemon on a real unix socket."""
