//! The pin directory: `DIR/v5/maps`, `DIR/v5/programs`, `DIR/v5/links`. What is pinned outlives the daemon (SPEC D20).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use nix::sys::statfs::statfs;
use sg_common::abi::{self, map};

use super::KernelError;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The directories under the pin directory.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the pin directory itself; mounts a BPF file system at `/sys/fs/bpf` if `dir` lies there and none is mounted.
    ///
    /// # Errors
    ///
    /// If `dir` is not on a BPF file system and cannot be.
    pub fn make_root(dir: &Path) -> Result<(), KernelError> {
        let standard = Path::new("/sys/fs/bpf");
        if dir.starts_with(standard) && !is_bpffs(standard) {
            let none: Option<&str> = None;
            nix::mount::mount(Some("bpf"), standard, Some("bpf"), nix::mount::MsFlags::empty(), none)
                .map_err(|error| KernelError::Pin {
                    path: standard.to_owned(),
                    what: "mount bpffs at",
                    error: error.into(),
                })?;
        }
        make_directory(dir)?;
        if is_bpffs(dir) { Ok(()) } else { Err(KernelError::NotBpffs { path: dir.to_owned() }) }
    }

    /// Those of this version, whether they are there or not.
    pub fn at(dir: &Path) -> Self {
        Self { root: dir.join(format!("v{}", abi::ABI_VERSION)) }
    }

    /// Makes the directories of this version.
    ///
    /// # Errors
    ///
    /// As [`Self::make_root`].
    pub fn open(dir: &Path) -> Result<Self, KernelError> {
        Self::make_root(dir)?;
        let pins = Self::at(dir);
        for dir in [pins.maps(), pins.links()] {
            make_directory(&dir)?;
        }
        Ok(pins)
    }

    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where programs are pinned, in a directory for each object.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// There while many devices are attached to.
    pub(super) fn hurry(&self) -> PathBuf {
        self.root.join("hurry")
    }

    /// Removes everything of this version, links first.
    ///
    /// # Errors
    ///
    /// If a file stays.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(self.links())?;
        fs::remove_dir_all(&self.root)?;
        // Other versions may be there; an empty directory is ours to remove.
        if let Some(parent) = self.root.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

fn make_directory(dir: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(dir).map_err(|error| KernelError::Pin {
        path: dir.to_owned(),
        what: "make the directory",
        error,
    })
}

/// Whether a BPF file system is mounted there.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type().0 == BPF_FS_MAGIC)
}

/// What a map must be to be taken over: aya takes any, and reads and writes past the end of values of another size.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
}

const fn shape<K, V>(name: &'static str, kind: MapType) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>() }
}

const SHAPES: [Shape; 31] = [
    shape::<u32, abi::Control>(map::CONTROL, MapType::Array),
    shape::<u32, abi::Interface>(map::INTERFACES, MapType::Array),
    shape::<[u8; 12], abi::Row>(map::CLASSES_V4, MapType::LpmTrie),
    shape::<[u8; 24], abi::Row>(map::CLASSES_V6, MapType::LpmTrie),
    shape::<u32, abi::MembersV4>(map::MEMBERS_V4, MapType::Array),
    shape::<u32, abi::MembersV6>(map::MEMBERS_V6, MapType::Array),
    shape::<u32, abi::Pairs>(map::PAIRS, MapType::Array),
    shape::<u32, [u8; abi::PORT_SET_BYTES]>(map::PORT_SETS, MapType::Array),
    shape::<u32, abi::FlowSlotV4>(map::FLOWS_V4, MapType::Array),
    shape::<u32, abi::FlowSlotV6>(map::FLOWS_V6, MapType::Array),
    shape::<u32, abi::FlowTags>(map::TAGS_V4, MapType::Array),
    shape::<u32, abi::FlowTags>(map::TAGS_V6, MapType::Array),
    shape::<u32, u64>(map::RING_V4, MapType::Array),
    shape::<u32, u64>(map::RING_V6, MapType::Array),
    shape::<abi::FragmentKeyV4, abi::Datagram>(map::FRAGMENTS_V4, MapType::Hash),
    shape::<abi::FragmentKeyV6, abi::Datagram>(map::FRAGMENTS_V6, MapType::Hash),
    shape::<u32, abi::FragmentKeyV4>(map::FRAG_RING_V4, MapType::Array),
    shape::<u32, abi::FragmentKeyV6>(map::FRAG_RING_V6, MapType::Array),
    shape::<abi::OwnKeyV4, u32>(map::OWN_V4, MapType::Hash),
    shape::<abi::OwnKeyV6, u32>(map::OWN_V6, MapType::Hash),
    shape::<u32, abi::Share>(map::SHARES, MapType::Array),
    shape::<u32, abi::Counter>(map::COUNTERS, MapType::PerCpuArray),
    shape::<u32, abi::Watcher>(map::WATCHERS, MapType::Array),
    shape::<u32, abi::Watched>(map::WATCHED, MapType::PerCpuArray),
    shape::<(), ()>(map::EVENTS, MapType::RingBuf),
    shape::<(), ()>(map::NEW_FLOWS, MapType::RingBuf),
    shape::<abi::AccountKeyV4, abi::Account>(map::ACCOUNTS_V4, MapType::Hash),
    shape::<abi::AccountKeyV6, abi::Account>(map::ACCOUNTS_V6, MapType::Hash),
    shape::<(), ()>(map::FLOW_RECORDS, MapType::RingBuf),
    shape::<u32, abi::Port>(map::PORTS, MapType::Array),
    shape::<abi::StationKey, abi::Station>(map::STATIONS, MapType::Hash),
];

/// What each map is made with (`BPF_F_*`, include/uapi/linux/bpf.h); as in `sg-ebpf`.
fn flags(name: &str) -> u32 {
    const NO_PREALLOC: u32 = 1;
    const MMAPABLE: u32 = 1 << 10;
    match name {
        map::CONTROL
        | map::INTERFACES
        | map::MEMBERS_V4
        | map::MEMBERS_V6
        | map::PAIRS
        | map::SHARES
        | map::WATCHERS
        | map::FLOWS_V4
        | map::FLOWS_V6
        | map::TAGS_V4
        | map::TAGS_V6
        | map::RING_V4
        | map::RING_V6
        | map::PORTS => MMAPABLE,
        map::CLASSES_V4
        | map::CLASSES_V6
        | map::OWN_V4
        | map::OWN_V6
        | map::ACCOUNTS_V4
        | map::ACCOUNTS_V6
        | map::STATIONS => NO_PREALLOC,
        _ => 0,
    }
}

fn describe((kind, key, value, flags): (MapType, usize, usize, u32)) -> String {
    format!("a map of type {kind:?} with keys of {key} bytes, values of {value} bytes and flags {flags:#x}")
}

/// The names of all maps.
pub fn map_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// Checks the maps that an earlier daemon left, and says how many entries each has.
///
/// # Errors
///
/// If one of them is not what this version would make.
pub fn check_maps(pins: &Pins) -> Result<BTreeMap<&'static str, u32>, KernelError> {
    let mut found = BTreeMap::new();
    for shape in &SHAPES {
        let path = pins.map(shape.name);
        if !path.exists() {
            continue;
        }
        let expected = (shape.kind, shape.key, shape.value, flags(shape.name));
        let info = MapInfo::from_pin(&path).map_err(|error| KernelError::Foreign {
            path: path.clone(),
            found: format!("no map that can be read ({error})"),
            expected: describe(expected),
        })?;
        let kind = info.map_type().map_err(KernelError::map(shape.name))?;
        let found_shape = (kind, info.key_size() as usize, info.value_size() as usize, info.map_flags());
        if found_shape != expected {
            return Err(KernelError::Foreign {
                path,
                found: describe(found_shape),
                expected: describe(expected),
            });
        }
        found.insert(shape.name, info.max_entries());
    }
    Ok(found)
}
