//! Programs: loaded when they are needed, pinned, and found again.
//!
//! To verify them is most of what a start takes, so a daemon that starts again with the same object and the same maps takes
//! the loaded programs from their pins: `programs/HASH/NAME`, where the hash is one of the object, of the maps' ids and of the
//! constants, which are all that is put into the programs when they are loaded. The kernel gives no id twice within any time that matters.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapInfo;
use aya::programs::{Program, ProgramError, ProgramInfo, ProgramType, RawTracePoint, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use sg_common::abi::SkBuff;

use super::{KernelError, Pins, pins};

/// Of the object's bytes.
const OBJECT_HASH: &str = env!("SGD_BPF_OBJECT_HASH");

pub(super) struct Programs {
    ebpf: Ebpf,
    adopted: BTreeMap<&'static str, Program>,
    /// Where this object's programs are pinned.
    dir: PathBuf,
    map_ids: Vec<u32>,
    /// How many maps are not pinned: working memory and constants, which no other program sees.
    private: usize,
}

impl Programs {
    /// All maps must be pinned by now.
    pub fn new(ebpf: Ebpf, pins: &Pins, constants: &SkBuff) -> Result<Self, KernelError> {
        let mut map_ids = Vec::new();
        for name in pins::map_names() {
            map_ids.push(MapInfo::from_pin(pins.map(name)).map_err(KernelError::map(name))?.id());
        }
        let mut ids = DefaultHasher::new();
        map_ids.hash(&mut ids);
        constants.hash(&mut ids);
        let dir = pins.programs().join(format!("{OBJECT_HASH}-{:016x}", ids.finish()));
        fs::create_dir_all(&dir).map_err(|error| KernelError::Pin {
            path: dir.clone(),
            what: "make the directory",
            error,
        })?;
        let private = ebpf.maps().filter(|(name, _)| pins::map_names().all(|pinned| pinned != *name)).count();
        Ok(Self { ebpf, adopted: BTreeMap::new(), dir, map_ids, private })
    }

    /// A TC program, loaded.
    pub fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, KernelError> {
        match self.loaded(name)? {
            Program::SchedClassifier(program) => Ok(program),
            _ => Err(KernelError::Missing { name }),
        }
    }

    /// A raw tracepoint's program, loaded.
    pub fn tracepoint(&mut self, name: &'static str) -> Result<&mut RawTracePoint, KernelError> {
        match self.loaded(name)? {
            Program::RawTracePoint(program) => Ok(program),
            _ => Err(KernelError::Missing { name }),
        }
    }

    /// An XDP program, loaded.
    pub fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, KernelError> {
        match self.loaded(name)? {
            Program::Xdp(program) => Ok(program),
            _ => Err(KernelError::Missing { name }),
        }
    }

    /// Where a program that is loaded is pinned.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn loaded(&mut self, name: &'static str) -> Result<&mut Program, KernelError> {
        let pin = self.pin(name);
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        if program.fd().is_err() && !self.adopted.contains_key(name) {
            match adopt(program.prog_type(), name, &pin, &self.map_ids, self.private) {
                Some(found) => {
                    self.adopted.insert(name, found);
                }
                None => {
                    load(program).map_err(|source| KernelError::Program { name, source })?;
                    // Without its pin it works as well; only the next start takes longer.
                    let _ = fs::remove_file(&pin);
                    if let Err(error) = program.pin(&pin) {
                        tracing::warn!(%error, "program {name} cannot be pinned");
                    }
                }
            }
        }
        Ok(self.adopted.get_mut(name).unwrap_or(program))
    }

    /// Removes the pins of other objects' programs. What is attached stays loaded.
    pub fn forget_others(&self) {
        let Some(parent) = self.dir.parent() else { return };
        let Ok(directories) = fs::read_dir(parent) else { return };
        for other in directories.flatten().map(|entry| entry.path()).filter(|path| *path != self.dir) {
            if let Err(error) = fs::remove_dir_all(&other) {
                tracing::warn!(%error, "programs of an earlier sgd stay loaded: {}", other.display());
            }
        }
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The pinned program, if it is what its name says and filters by our maps.
fn adopt(kind: ProgramType, name: &'static str, pin: &Path, maps: &[u32], private: usize) -> Option<Program> {
    if !pin.exists() {
        return None;
    }
    let adopted = is_ours(kind, name, pin, maps, private).and_then(|ours| match kind {
        _ if !ours => Ok(None),
        ProgramType::SchedClassifier => {
            SchedClassifier::from_pin(pin).map(|program| Some(Program::SchedClassifier(program)))
        }
        ProgramType::RawTracePoint => {
            RawTracePoint::from_pin(pin).map(|program| Some(Program::RawTracePoint(program)))
        }
        ProgramType::Xdp => {
            Xdp::from_pin(pin, XdpAttachType::Interface).map(|program| Some(Program::Xdp(program)))
        }
        _ => Ok(None),
    });
    match adopted {
        Ok(Some(program)) => Some(program),
        Ok(None) => {
            tracing::warn!("{} is not the program that its name says; it is replaced", pin.display());
            None
        }
        Err(error) => {
            tracing::warn!(%error, "{} cannot be used; it is replaced", pin.display());
            None
        }
    }
}

fn is_ours(
    kind: ProgramType,
    name: &str,
    pin: &Path,
    maps: &[u32],
    private: usize,
) -> Result<bool, ProgramError> {
    let info = ProgramInfo::from_pin(pin)?;
    // The kernel keeps 15 bytes of a name (BPF_OBJ_NAME_LEN).
    let named = name.as_bytes().starts_with(info.name()) && !info.name().is_empty();
    // The clock uses no map.
    let used = info.map_ids()?.unwrap_or_default();
    let foreign = used.iter().filter(|id| !maps.contains(id)).count();
    Ok(info.program_type() == kind.into() && named && foreign <= private)
}
