//! Floor 1: the durable write-ahead log of undo records, claims, and what is owed.
