"""Training, validation and test records that have no subject in common.

Where a record goes depends on its subject and the seed alone, so a subject lands in the same share
in whatever file and order it comes: records that an editor was trained on are told from others by
the hashes of their subjects.
"""

import hashlib
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from factlab.data.records import Record
from factlab.errors import InvalidRequestError, counted

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True, slots=True)
class Split:
    """Records in three shares; no subject is in two of them.

    Attributes:
        train: what an editor learns from.
        validation: what tells when to stop.
        test: what it never saw.
    """

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    test: tuple[Record, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of which subject is in which share."""
        shares = (self.train, self.validation, self.test)
        return shares_hash([[record.fact.topic for record in share] for share in shares])


def split_by_subject(
    records: Sequence[Record],
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    test_share: float = TEST_SHARE,
    kept_out: Collection[str] = (),
) -> Split:
    """Share records out by a hash of subject and seed.

    Args:
        records: the records; their order is kept within each share.
        seed: another seed gives other shares.
        validation_share: part of the subjects for validation, 0–1.
        test_share: part of the subjects for tests, 0–1.
        kept_out: subjects that go to the tests in any case.

    Raises:
        InvalidRequestError: the shares leave nothing for training, or a share that is wanted comes
            out empty.
    """
    check_shares(validation_share, test_share)
    apart = {subject_hash(subject) for subject in kept_out}
    places = [
        2
        if subject_hash(record.fact.topic) in apart
        else share_of(record.fact.topic, seed, validation_share, test_share)
        for record in records
    ]
    found = [tuple(r for r, p in zip(records, places, strict=True) if p == i) for i in range(3)]
    wanted = (1.0 - validation_share - test_share, validation_share, test_share)
    for name, part, share in zip(("training", "validation", "test"), found, wanted, strict=True):
        if share and not part:
            apart_from = f" besides {sum(map(len, found[2:]))} for tests" if apart else ""
            raise InvalidRequestError(
                f"{counted(len(records), 'record')} are too few to split: none are left for {name} "
                f"(a share of {share:.2g} of the subjects){apart_from}. Give more records."
            )
    return Split(*found)


def check_shares(validation_share: float, test_share: float) -> None:
    """Refuse shares that cannot be.

    Raises:
        InvalidRequestError: one is negative, or nothing is left for training.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise InvalidRequestError(
            f"validation_share={validation_share:g} and test_share={test_share:g} must not be "
            "negative and must leave something for training: together below 1."
        )


def share_of(subject: str, seed: int, validation_share: float, test_share: float) -> int:
    """0 for training, 1 for validation, 2 for test."""
    digest = hashlib.sha256(f"{seed}\n{_as_compared(subject)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_share:
        return 2
    return 1 if place < test_share + validation_share else 0


def subject_hash(subject: str) -> str:
    """SHA-256 by which a subject is recognised, however it is spaced or capitalised."""
    return hashlib.sha256(_as_compared(subject).encode()).hexdigest()


def shares_hash(shares: Sequence[Sequence[str]]) -> str:
    """SHA-256 of which subjects are in which share; their order does not count."""
    digest = hashlib.sha256()
    for share in shares:
        for each in sorted({subject_hash(subject) for subject in share}):
            digest.update(each.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _as_compared(subject: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", subject).casefold().split())
