//! Programs on devices. The pinned links are the truth about what is attached: they survive the daemon, and one that is
//! there is never replaced, only its program is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::links::{FdLink, Link as _, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, XdpMode};
use sg_common::abi::program;

use super::{Kernel, KernelError};
use crate::crash::{self, Point};
use crate::policy::model::HookChoice;

/// How TC programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcMode {
    /// TCX where the kernel has it (6.6), else a clsact filter.
    Auto,
    Clsact,
}

/// How a device is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// `xdp`, `tcx` or `clsact`.
    pub ingress: &'static str,
    /// `tcx` or `clsact`.
    pub egress: &'static str,
}

/// Of our clsact filters on a device.
const CLSACT_PRIORITY: u16 = 0x5347;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Xdp,
    /// Behind XDP.
    Checksum,
    TcIngress,
    TcEgress,
}

impl Place {
    const EVERY: [Self; 4] = [Self::Xdp, Self::Checksum, Self::TcIngress, Self::TcEgress];

    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Checksum => "tc_checksum",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
        }
    }

    /// Our clsact filter of that place on a device.
    fn clsact(self, interface: &str, kind: TcAttachType) -> io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(interface, kind, CLSACT_PRIORITY, self.clsact_handle(), None)
    }

    const fn clsact_handle(self) -> TcHandle {
        TcHandle::new(0, if matches!(self, Self::Checksum) { 2 } else { 1 })
    }

    const fn tc(self) -> Option<(&'static str, TcAttachType)> {
        match self {
            Self::Xdp => None,
            Self::Checksum => Some((program::TC_CHECKSUM, TcAttachType::Ingress)),
            Self::TcIngress => Some((program::TC_INGRESS, TcAttachType::Ingress)),
            Self::TcEgress => Some((program::TC_EGRESS, TcAttachType::Egress)),
        }
    }
}

/// Attaches the TC programs to devices, and does nothing else: a device without an entry in the maps is closed by them. Works
/// beside the [`Kernel`], which may have its hands full, and finds the links in their place.
#[derive(Debug)]
pub struct Closer {
    ingress: SchedClassifier,
    egress: SchedClassifier,
    links: PathBuf,
    mode: TcMode,
}

impl Closer {
    /// Closes a device that nothing is attached to.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the device has another name by now.
    pub fn close(&mut self, interface: &str, ifindex: u32) -> Result<(), KernelError> {
        for (program, place) in [(&mut self.ingress, Place::TcIngress), (&mut self.egress, Place::TcEgress)] {
            let Some((_, kind)) = place.tc() else { continue };
            let path = link_path(&self.links, ifindex, place);
            attach_tc(program, interface, place, kind, self.mode, &path)?;
            if nix::net::if_::if_nametoindex(interface) != Ok(ifindex) {
                // It may be on another device now.
                let _ = fs::remove_file(&path);
                let why = "the device has another name by now, or is gone; name the one that is there in the policy".to_owned();
                return Err(KernelError::Attach { interface: interface.to_owned(), hook: "tc", why });
            }
        }
        Ok(())
    }

    /// Whether a device's link is still one, if it has any: the kernel cuts them when a device leaves the namespace, and
    /// the next one may have its index.
    pub fn is_cut(&mut self, ifindex: u32) -> bool {
        [(&mut self.ingress, Place::TcIngress), (&mut self.egress, Place::TcEgress)].into_iter().any(
            |(program, place)| {
                let path = link_path(&self.links, ifindex, place);
                path.exists() && update(program, &path).is_err()
            },
        )
    }

    /// Forgets the links of a device that is gone.
    pub fn forget(&self, ifindex: u32) {
        for place in Place::EVERY {
            let _ = fs::remove_file(link_path(&self.links, ifindex, place));
        }
    }
}

/// Puts a TC program in a link; ENOLINK if the link's device is gone, nothing happens if it is there already.
fn update(program: &mut SchedClassifier, path: &Path) -> Result<(), ProgramError> {
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(link_error)?);
    let id = program.attach_to_link(link.try_into().map_err(link_error)?)?;
    drop(program.take_link(id)?);
    Ok(())
}

fn link_path(links: &Path, ifindex: u32, place: Place) -> PathBuf {
    links.join(format!("{ifindex}_{}", place.name()))
}

impl Kernel {
    /// Something that closes devices without this.
    ///
    /// # Errors
    ///
    /// If the programs cannot be loaded and pinned.
    pub fn closer(&mut self) -> Result<Closer, KernelError> {
        let mut pinned = |name| {
            self.programs.classifier(name)?;
            SchedClassifier::from_pin(self.programs.pin(name))
                .map_err(|source| KernelError::Program { name, source })
        };
        let (ingress, egress) = (pinned(program::TC_INGRESS)?, pinned(program::TC_EGRESS)?);
        Ok(Closer { ingress, egress, links: self.pins.links(), mode: self.tc_mode })
    }

    /// Unpins the programs of other objects, once no link is theirs.
    pub fn forget_other_programs(&self) {
        self.programs.forget_others();
    }

    /// Puts the new programs in place of those that an earlier daemon attached. No packet passes in between.
    ///
    /// # Errors
    ///
    /// If a link cannot be taken over. Links of devices that are gone are removed.
    pub fn take_over_links(&mut self) -> Result<(), KernelError> {
        let links = self.pins.links();
        let pin_error = |what, path: &PathBuf| {
            let path = path.clone();
            move |error: io::Error| KernelError::Pin { path, what, error }
        };
        for file in fs::read_dir(&links).map_err(pin_error("read", &links))? {
            let path = file.map_err(pin_error("read", &links))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let place = Place::EVERY
                .into_iter()
                .find(|place| name.split_once('_').is_some_and(|(_, rest)| rest == place.name()));
            let Some(place) = place else { continue };
            // Loaded before anything is replaced; a refusal is the kernel's word, not the link's.
            match place.tc() {
                None => {
                    self.programs.xdp(program::XDP_INGRESS)?;
                }
                Some((name, _)) => {
                    self.programs.classifier(name)?;
                }
            }
            match self.take_over(place, &path) {
                Ok(()) => {}
                Err(error) if is_errno(&error, libc::ENOLINK) => {
                    fs::remove_file(&path).map_err(pin_error("remove", &path))?;
                }
                Err(error) => {
                    return Err(KernelError::Pin { path, what: "take over", error: io::Error::other(error) });
                }
            }
        }
        Ok(())
    }

    /// Takes the XDP links of another layout to ours, with our program in them: a device has one.
    pub(super) fn inherit_xdp_links(&mut self, from: &Path) -> Result<(), KernelError> {
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        for old in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = old.file_name().and_then(|name| name.to_str()) else { continue };
            if name.split_once('_').is_none_or(|(_, place)| place != Place::Xdp.name()) {
                continue;
            }
            let failed = |error: &dyn std::error::Error| KernelError::Pin {
                path: old.clone(),
                what: "take over",
                error: io::Error::other(chain(error)),
            };
            let new = self.pins.links().join(name);
            self.programs.xdp(program::XDP_INGRESS)?;
            match self.take_over(Place::Xdp, &old) {
                Ok(()) => {}
                // The device is gone.
                Err(error) if is_errno(&error, libc::ENOLINK) => continue,
                Err(error) => return Err(failed(&error)),
            }
            // Under both names for a moment: the link must not lose its last one.
            if !new.exists() {
                let link = PinnedLink::from_pin(&old).map_err(|error| failed(&error))?;
                FdLink::from(link).pin(&new).map_err(|error| failed(&error))?;
            }
            fs::remove_file(&old).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn take_over(&mut self, place: Place, path: &PathBuf) -> Result<(), ProgramError> {
        match place.tc() {
            None => {
                let Ok(program) = self.programs.xdp(program::XDP_INGRESS) else { return Ok(()) };
                let link = FdLink::from(PinnedLink::from_pin(path).map_err(link_error)?);
                let id = program.attach_to_link(link.try_into().map_err(link_error)?)?;
                drop(program.take_link(id)?);
            }
            Some((name, _)) => {
                let Ok(program) = self.programs.classifier(name) else { return Ok(()) };
                update(program, path)?;
            }
        }
        Ok(())
    }

    /// Filters a device, or changes the hook by which it is filtered: the new one is there before the old one goes, so
    /// that for an instant a packet is judged, and counted, twice rather than not at all.
    ///
    /// # Errors
    ///
    /// If the device or the kernel cannot do what is asked; nothing is attached then that was not before.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        hook: HookChoice,
    ) -> Result<Attached, KernelError> {
        // What `auto` means was measured (docs/hooks.md): on veths and taps XDP makes nothing cheaper that passes, and copies or cuts
        // the guests' super-packets. TC works with every device, and on the fast path.
        let (wanted, unwanted): (&[Place], &[Place]) = match hook {
            HookChoice::Xdp => (&[Place::TcEgress, Place::Checksum, Place::Xdp], &[Place::TcIngress]),
            HookChoice::Tc | HookChoice::Auto => {
                (&[Place::TcEgress, Place::TcIngress], &[Place::Xdp, Place::Checksum])
            }
        };
        if let Some(deferred) = &mut self.deferred {
            deferred.push(interface, ifindex, hook);
            let tc = if self.tc_mode == TcMode::Clsact { "clsact" } else { "tcx" };
            let ingress = if wanted.contains(&Place::Xdp) { "xdp" } else { tc };
            return Ok(Attached { ingress, egress: tc });
        }
        let mut attached = Attached { ingress: "", egress: "" };
        let mut new = Vec::new();
        for &place in wanted {
            let (how, is_new) = match self.attach_at(interface, ifindex, place) {
                Ok(outcome) => outcome,
                Err(error) => {
                    for place in new {
                        self.detach_from(interface, ifindex, place);
                    }
                    return Err(error);
                }
            };
            if is_new {
                new.push(place);
            }
            match place {
                Place::TcEgress => {
                    attached.egress = how;
                    crash::at(Point::OneHookAttached);
                }
                Place::TcIngress | Place::Xdp => attached.ingress = how,
                Place::Checksum => {}
            }
        }
        for &place in unwanted {
            self.detach_from(interface, ifindex, place);
        }
        Ok(attached)
    }

    /// Stops filtering a device. It is open from then on.
    pub fn detach(&mut self, interface: &str, ifindex: u32) {
        for place in Place::EVERY {
            self.detach_from(interface, ifindex, place);
            if place == Place::TcIngress {
                crash::at(Point::OneHookDetached);
            }
        }
    }

    /// Whether anything is attached to the device.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        Place::EVERY.into_iter().any(|place| self.link(ifindex, place).exists())
    }

    /// Whether a link of the device is none any more: the kernel cuts them when a device leaves the namespace, and it may be
    /// back already. Nobody tells of clsact filters.
    pub fn is_cut(&mut self, ifindex: u32) -> bool {
        Place::EVERY.into_iter().any(|place| {
            let path = self.link(ifindex, place);
            // The same program once more changes nothing.
            path.exists() && self.take_over(place, &path).is_err()
        })
    }

    fn link(&self, ifindex: u32, place: Place) -> PathBuf {
        link_path(&self.pins.links(), ifindex, place)
    }

    /// By which means, and whether it was not attached before.
    fn attach_at(
        &mut self,
        interface: &str,
        ifindex: u32,
        place: Place,
    ) -> Result<(&'static str, bool), KernelError> {
        let path = self.link(ifindex, place);
        let hook = if place == Place::Xdp { "xdp" } else { "tc" };
        let failed = |why: String| KernelError::Attach { interface: interface.to_owned(), hook, why };
        if path.exists() {
            return Ok((if place == Place::Xdp { "xdp" } else { "tcx" }, false));
        }
        let Some((name, kind)) = place.tc() else {
            let program = self.programs.xdp(program::XDP_INGRESS)?;
            let id =
                program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(|e| failed(xdp_advice(&e)))?;
            let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
            let link = FdLink::try_from(link).map_err(|_| {
                failed("the kernel has no XDP links (Linux 5.9); use \"hook\": \"tc\"".into())
            })?;
            pin(link, &path).map_err(|error| failed(chain(&error)))?;
            return Ok(("xdp", true));
        };
        attach_tc(self.programs.classifier(name)?, interface, place, kind, self.tc_mode, &path)
    }

    fn detach_from(&mut self, interface: &str, ifindex: u32, place: Place) {
        let path = self.link(ifindex, place);
        if path.exists() {
            match PinnedLink::from_pin(&path).map(PinnedLink::unpin) {
                // Closing the last reference detaches.
                Ok(Ok(link)) => drop(link),
                Ok(Err(error)) => tracing::warn!(interface, %error, "cannot unpin {}", path.display()),
                Err(error) => tracing::warn!(interface, %error, "cannot open {}", path.display()),
            }
        } else if let Some((_, kind)) = place.tc()
            // The name may be another device's by now.
            && nix::net::if_::if_nametoindex(interface) == Ok(ifindex)
            && let Ok(link) = place.clsact(interface, kind)
        {
            // There may be no filter of ours, or no device any more.
            let _ = link.detach();
        }
    }
}

/// Takes our clsact filters off a device; whether there were any.
pub(super) fn detach_clsact(interface: &str) -> bool {
    let mut any = false;
    for place in Place::EVERY {
        if let Some((_, kind)) = place.tc()
            && let Ok(link) = place.clsact(interface, kind)
        {
            any |= link.detach().is_ok();
        }
    }
    any
}

/// Attaches a TC program, by the way that the kernel has and the operator wants: by which, and whether it was not attached
/// before.
fn attach_tc(
    program: &mut SchedClassifier,
    interface: &str,
    place: Place,
    kind: TcAttachType,
    mode: TcMode,
    path: &Path,
) -> Result<(&'static str, bool), KernelError> {
    let failed = |why: String| KernelError::Attach { interface: interface.to_owned(), hook: "tc", why };
    if mode != TcMode::Clsact {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        match program.attach_with_options(interface, kind, order) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
                let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
                pin(link, path).map_err(|error| failed(chain(&error)))?;
                // An earlier daemon may have used clsact: both would judge each packet.
                if let Ok(link) = place.clsact(interface, kind) {
                    let _ = link.detach();
                }
                return Ok(("tcx", true));
            }
            // Kernels before 6.6 know no TCX.
            Err(error) if is_errno(&error, libc::EINVAL) => {}
            Err(error) => return Err(failed(chain(&error))),
        }
    }
    match qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(error) if is_errno(&error, libc::EEXIST) => {}
        Err(error) => return Err(failed(chain(&error))),
    }
    let ours = NlOptions { priority: CLSACT_PRIORITY, handle: place.clsact_handle(), classid: None };
    let link = place.clsact(interface, kind).map_err(|error| failed(chain(&error)))?;
    let (id, is_new) = match program.attach_to_link(link) {
        Ok(id) => (id, false),
        // There is none to replace.
        Err(_) => {
            let attached = program.attach_with_options(interface, kind, TcAttachOptions::Netlink(ours));
            (attached.map_err(|error| failed(chain(&error)))?, true)
        }
    };
    // The filter stays when the daemon goes: it is taken away only by `detach`.
    std::mem::forget(program.take_link(id).map_err(|error| failed(chain(&error)))?);
    Ok(("clsact", is_new))
}

/// Pins a link. If one is pinned there already, whoever was first has attached the same program, and ours goes.
fn pin(link: FdLink, path: &Path) -> Result<(), PinError> {
    match link.pin(path) {
        Ok(_) => Ok(()),
        Err(error) if is_errno(&error, libc::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => {
            ProgramError::IOError(io::ErrorKind::InvalidData.into())
        }
    }
}

fn xdp_advice(error: &ProgramError) -> String {
    if is_errno(error, libc::EBUSY) {
        "another XDP program is attached; remove it, or set the interface's \"hook\" to \"tc\"".into()
    } else if is_errno(error, libc::EOPNOTSUPP) {
        "the driver has no native XDP; set the interface's \"hook\" to \"tc\" or \"auto\"".into()
    } else {
        chain(error)
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether a system call's error number is the cause.
fn is_errno(error: &(dyn std::error::Error + 'static), errno: i32) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.raw_os_error() == Some(errno)
        {
            return true;
        }
        if let Some(call) = error.downcast_ref::<aya::sys::SyscallError>()
            && call.io_error.raw_os_error() == Some(errno)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
