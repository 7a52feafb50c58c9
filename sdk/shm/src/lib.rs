//! Shared memory, descriptors, rings, ledger and waking
