"""What this host's network is made of; so far its interfaces, for the daemon and the doctor.

Nothing here is kept or written: the kernel is asked each time.
"""
