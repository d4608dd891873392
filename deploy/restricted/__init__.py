"""The image, run under the restrictions of the compose file and looked at from inside."""
