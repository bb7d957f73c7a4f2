//! Data keys and what is derived from them, per thread. Twin: `KeyRing` in keys.ts. A ring's secrets lie in pages of their own that
//! are locked into memory where the limits of the process allow it, left out of core dumps, and zeroed before they are given back.

use ring::{aead, hkdf, hmac};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;

pub const CIPHER_NONE: u8 = 0;
pub const CIPHER_AES: u8 = 1;
pub const CIPHER_CHACHA: u8 = 2;

const REGION_BYTES: usize = 16 * 1024;
const SLOT_BYTES: usize = std::mem::size_of::<EpochKeys>();
const SLOTS_AT: usize = 64;
/// Reigns whose expanded keys are kept at a time; deriving one anew takes a few microseconds.
const SLOTS: usize = (REGION_BYTES - SLOTS_AT) / SLOT_BYTES;

/// Expanded keys of one (epoch, cipher).
pub struct EpochKeys {
    pub record: aead::LessSafeKey,
    pub frame: hmac::Key,
}

// Slots follow the data key at an aligned place, and none of them owns anything outside.
const _: () = assert!(SLOTS >= 8 && std::mem::align_of::<EpochKeys>() <= SLOTS_AT && !std::mem::needs_drop::<EpochKeys>());

struct Ring {
    lineage: [u8; 16],
    region: *mut u8,
    reigns: HashMap<u64, [u8; 16]>,
    /// Which (epoch, cipher) each used slot holds.
    held: Vec<(u64, u8)>,
    next: usize,
    last: usize,
}

impl Ring {
    fn new(lineage: [u8; 16], data_key: &[u8; 32]) -> Option<Ring> {
        // SAFETY: an anonymous mapping of our own; the data key is copied to its start.
        let region = unsafe {
            let region = libc::mmap(
                ptr::null_mut(),
                REGION_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if region == libc::MAP_FAILED {
                return None;
            }
            // Both are best effort: a process without the right to lock memory works all the same.
            libc::mlock(region, REGION_BYTES);
            libc::madvise(region, REGION_BYTES, libc::MADV_DONTDUMP);
            let region: *mut u8 = region.cast();
            ptr::copy_nonoverlapping(data_key.as_ptr(), region, 32);
            region
        };
        Some(Ring { lineage, region, reigns: HashMap::new(), held: Vec::new(), next: 0, last: 0 })
    }

    fn slot(&self, index: usize) -> *mut EpochKeys {
        debug_assert!(index < SLOTS);
        // SAFETY: index < SLOTS, so the slot lies inside the region.
        unsafe { self.region.add(SLOTS_AT + index * SLOT_BYTES).cast() }
    }

    fn keys(&mut self, epoch: u64, cipher: u8) -> Option<&EpochKeys> {
        if self.held.get(self.last) != Some(&(epoch, cipher)) {
            self.last = match self.held.iter().position(|held| *held == (epoch, cipher)) {
                Some(index) => index,
                None => self.derive(epoch, cipher)?,
            };
        }
        // SAFETY: every slot below held.len() was written whole by derive(); the borrow of self keeps derive() out.
        Some(unsafe { &*self.slot(self.last) })
    }

    fn derive(&mut self, epoch: u64, cipher: u8) -> Option<usize> {
        let algorithm = match cipher {
            CIPHER_AES => &aead::AES_256_GCM,
            CIPHER_CHACHA => &aead::CHACHA20_POLY1305,
            _ => return None,
        };
        let reign = self.reigns.get(&epoch)?;
        // SAFETY: the first 32 bytes of the region are the data key.
        let data_key = unsafe { std::slice::from_raw_parts(self.region, 32) };
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, reign).extract(data_key);
        let mut bytes = [0u8; 32];
        secret.expand(&[b"holdfast record v1"], hkdf::HKDF_SHA256).ok()?.fill(&mut bytes).ok()?;
        let record = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &bytes).ok()?);
        secret.expand(&[b"holdfast frame v1"], hkdf::HKDF_SHA256).ok()?.fill(&mut bytes).ok()?;
        let frame = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        // SAFETY: plain bytes of this frame; volatile, so that it is not left out as a dead store.
        unsafe { ptr::write_volatile(&mut bytes, [0u8; 32]) };
        let index = if self.held.len() < SLOTS {
            self.held.push((epoch, cipher));
            self.held.len() - 1
        } else {
            let index = self.next;
            self.next = (index + 1) % SLOTS;
            self.held[index] = (epoch, cipher);
            index
        };
        // SAFETY: inside the region, aligned, and what stood there needs no drop.
        unsafe { ptr::write(self.slot(index), EpochKeys { record, frame }) };
        Some(index)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the region is ours alone; volatile writes, so that zeroing is not left out.
        unsafe {
            for word in 0..REGION_BYTES / 8 {
                ptr::write_volatile(self.region.cast::<u64>().add(word), 0);
            }
            libc::munmap(self.region.cast(), REGION_BYTES);
        }
    }
}

#[derive(Default)]
pub struct Rings {
    rings: HashMap<u32, Ring>,
    made: u32,
}

impl Rings {
    pub fn create(&mut self, lineage: [u8; 16], data_key: &[u8; 32]) -> Option<u32> {
        // Numbers are never used again: a stale one finds nothing rather than another volume's keys.
        let number = self.made.checked_add(1)?;
        self.rings.insert(number, Ring::new(lineage, data_key)?);
        self.made = number;
        Some(number)
    }

    pub fn add_reign(&mut self, ring: u32, epoch: u64, reign: [u8; 16]) -> bool {
        match self.rings.get_mut(&ring) {
            Some(ring) => {
                if ring.reigns.insert(epoch, reign).is_some_and(|before| before != reign) {
                    // Keys of the epoch's former reign are not to be used again; slots are found by epoch.
                    for held in ring.held.iter_mut().filter(|held| held.0 == epoch) {
                        *held = (u64::MAX, 0);
                    }
                }
                true
            }
            None => false,
        }
    }

    pub fn destroy(&mut self, ring: u32) {
        self.rings.remove(&ring);
    }

    /// Lineage and expanded keys, or None when the ring is unknown (number 0: none) or never heard of the epoch.
    pub fn find(&mut self, ring: u32, epoch: u64, cipher: u8) -> Option<([u8; 16], &EpochKeys)> {
        let ring = self.rings.get_mut(&ring)?;
        let lineage = ring.lineage;
        Some((lineage, ring.keys(epoch, cipher)?))
    }
}

thread_local! {
    pub static RINGS: RefCell<Rings> = RefCell::new(Rings::default());
}
