"""What people would use instead: small, idiomatic programs, each with the settings its own documentation advises.

Each is told of its database by libpq's environment variables, and runs with the packages of the group `bench` and of
package.json, which `make bench` installs.
"""
