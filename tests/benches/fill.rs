//! Connections put into the tables of a filter that is loaded: more than anybody could open, and known by heart.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::MapData;
use sg_common::abi;

/// How many entries are written with one call.
pub const BATCH: usize = 8192;

pub fn pinned(pins: &Path, name: &str) -> PathBuf {
    pins.join(format!("v{}/maps/{name}", abi::ABI_VERSION))
}

/// `BPF_MAP_UPDATE_BATCH`, include/uapi/linux/bpf.h.
const UPDATE_BATCH: libc::c_int = 26;

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes elements of the map's own types.
pub fn update_batch<K: Pod, V: Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attribute's pointers are to live buffers with `count` elements of the map's sizes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
