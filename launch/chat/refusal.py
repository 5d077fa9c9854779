# SPDX-License-Identifier: Apache-2.0
"""What ends the program, in words for its user."""


class Refusal(Exception):
    """The message, and the exit code: 65 for bad input, 64 for bad usage."""

    def __init__(self, message, code=65):
        super().__init__(message)
        self.code = code
