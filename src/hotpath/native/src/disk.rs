//! What the disk port needs and Node does not have (stream D).
