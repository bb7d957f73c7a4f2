//! The memory of JavaScript's byte arrays, as this call may see it. Pointers are good until the call returns: nothing in between
//! lets JavaScript run.

use napi::{bindgen_prelude::JsValue, bindgen_prelude::Unknown, sys, Env, Error, Result, Status};
use std::ptr;

/// One Uint8Array (or Buffer) of the caller.
#[derive(Clone, Copy)]
pub struct Memory {
    start: *mut u8,
    length: usize,
}

impl Memory {
    fn of_raw(env: sys::napi_env, value: sys::napi_value) -> Option<Memory> {
        let mut kind = 0;
        let mut length = 0;
        let mut start = ptr::null_mut();
        // SAFETY: all out pointers are valid; a value that is no typed array gives an error status.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                env,
                value,
                &mut kind,
                &mut length,
                &mut start,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        if status != sys::Status::napi_ok || kind != sys::TypedarrayType::uint8_array {
            return None;
        }
        Some(Memory { start: start.cast(), length })
    }

    pub fn of(env: &Env, value: &Unknown) -> Result<Memory> {
        Memory::of_raw(env.raw(), value.raw())
            .ok_or_else(|| Error::new(Status::InvalidArg, "expected a Uint8Array"))
    }

    /// The first `count` items of a JavaScript array of byte arrays, appended to `list`.
    pub fn list(env: &Env, array: &Unknown, count: usize, list: &mut Vec<Memory>) -> Result<()> {
        for i in 0..count {
            let mut value = ptr::null_mut();
            // SAFETY: the out pointer is valid; anything but an object gives an error status.
            let status = unsafe { sys::napi_get_element(env.raw(), array.raw(), i as u32, &mut value) };
            let memory = if status == sys::Status::napi_ok { Memory::of_raw(env.raw(), value) } else { None };
            list.push(memory.ok_or_else(|| Error::new(Status::InvalidArg, "expected an array of Uint8Arrays"))?);
        }
        Ok(())
    }

    pub fn length(&self) -> usize {
        self.length
    }

    pub fn overlaps(&self, other: &Memory) -> bool {
        let (a, b) = (self.start as usize, other.start as usize);
        a < b + other.length && b < a + self.length
    }

    fn range(&self, at: usize, length: usize) -> Option<*mut u8> {
        let end = at.checked_add(length)?;
        // SAFETY: at <= end <= length, so the pointer stays inside.
        if end <= self.length { Some(unsafe { self.start.add(at) }) } else { None }
    }

    /// `length` bytes from `at` on, or None when they reach beyond the end.
    ///
    /// # Safety
    /// While the slice lives no mutable slice of the same bytes may.
    pub unsafe fn slice<'call>(&self, at: usize, length: usize) -> Option<&'call [u8]> {
        let start = self.range(at, length)?;
        Some(if length == 0 { &[] } else { std::slice::from_raw_parts(start, length) })
    }

    /// # Safety
    /// While the slice lives no other slice of the same bytes may.
    pub unsafe fn slice_mut<'call>(&self, at: usize, length: usize) -> Option<&'call mut [u8]> {
        let start = self.range(at, length)?;
        Some(if length == 0 { &mut [] } else { std::slice::from_raw_parts_mut(start, length) })
    }
}

/// A parameter block or a column of one: little-endian numbers at fixed places.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn write_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// JavaScript hands over whole numbers as doubles; None for anything that is not one from 0 to 2^53 - 1.
pub fn read_whole(bytes: &[u8], at: usize) -> Option<u64> {
    let value = f64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    if value >= 0.0 && value <= 9_007_199_254_740_991.0 && value.fract() == 0.0 { Some(value as u64) } else { None }
}
