"""This boot's RSA key, made while the manifests are fetched: it takes as long as a bucket's answer."""

import threading

from ephemeralml.keyrelease.recipient import RecipientKey


class PendingRecipient:
    """A `RecipientKey` that a thread of its own makes, from now on. Drop it."""

    def __init__(self) -> None:
        self._made: RecipientKey | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._make, name="recipient key", daemon=True)
        self._thread.start()

    def key(self) -> RecipientKey:
        """Return the key, waiting for it if need be; what its making raised is raised here."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._made is not None
        return self._made

    def drop(self) -> None:
        """Forget the key as soon as it is made; harmless twice."""
        self._thread.join()
        if self._made is not None:
            self._made.drop()

    def _make(self) -> None:
        try:
            self._made = RecipientKey.generate()
        except BaseException as error:  # noqa: BLE001 - whoever asks for the key gets it
            self._failure = error
