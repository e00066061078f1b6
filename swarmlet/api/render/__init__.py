"""Pure: rows of the store in, the Docker API's JSON out.

Every shape is a struct whose fields stand in Docker's order; zero values that Docker leaves out are
left out, and those it prints are `always`. Golden tests compare with what a Docker Engine answered.
"""
