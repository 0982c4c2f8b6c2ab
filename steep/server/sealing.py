"""Thoughts that a client carries and cannot read: encrypted here, and accepted back here alone.

AES-SIV (RFC 5297), for it needs no random number: a response is the same whenever it is told.
"""

import base64
import binascii
import hashlib
import os
import secrets
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from steep.server.errors import refused

SALT = b"steep: thoughts that clients carry"
ID_BYTES = 16


class Seal:
    def __init__(self, secret: str) -> None:
        self._cipher = AESSIV(hashlib.scrypt(secret.encode(), salt=SALT, n=1 << 14, r=8, p=1, dklen=64))

    def close(self, id: str, thought: str) -> str:
        """Encrypt the thought of the response that has this id, 32 hexadecimal digits."""
        number = UUID(id).bytes
        return base64.urlsafe_b64encode(number + self._cipher.encrypt(thought.encode(), [number])).decode()

    def open(self, sealed: str) -> str:
        try:
            data = base64.urlsafe_b64decode(sealed)
            return self._cipher.decrypt(data[ID_BYTES:], [data[:ID_BYTES]]).decode()
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise refused("encrypted_content was not made by this server, or was changed", "input") from error


def secret_in(file: Path) -> str:
    """The secret that a file holds, or a new one that it holds from now on."""
    if not file.exists():
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as new:
            new.write(secrets.token_hex())
        try:
            os.link(draft, file)
        except FileExistsError:  # another server was faster
            pass
        finally:
            draft.unlink()
    return file.read_text()
