//! Sealing and opening batches of records. Twin: `kernel-twin.ts`.
