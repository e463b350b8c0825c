"""AIR v1 receipts: what they say, issuing them, verifying them (spec air-v1)."""

from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.issue import issue
from ephemeralml.receipt.live import LiveReceipts, ModelEntry, verify_live
from ephemeralml.receipt.policy import ReceiptPolicy
from ephemeralml.receipt.replay import MemoryReplayStore, ReplayStore, SqliteReplayStore
from ephemeralml.receipt.result import ReceiptResult, VerifiedReceipt
from ephemeralml.receipt.rules import Profile
from ephemeralml.receipt.verify import verify_receipt

__all__ = [
    "AirClaims",
    "LiveReceipts",
    "Measurements",
    "MemoryReplayStore",
    "ModelEntry",
    "Profile",
    "ReceiptPolicy",
    "ReceiptResult",
    "ReplayStore",
    "SqliteReplayStore",
    "VerifiedReceipt",
    "issue",
    "verify_live",
    "verify_receipt",
]
