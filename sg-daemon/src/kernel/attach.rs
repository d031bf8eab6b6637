//! Programs on devices. The pinned links are the truth about what is attached: they survive the daemon, and one that is
//! there is never replaced, only its program is.

use std::fs;
use std::io;
use std::path::PathBuf;

use aya::programs::links::{FdLink, Link as _, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, XdpMode};
use sg_common::abi::program;

use super::{Kernel, KernelError, classifier, xdp};
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

/// Our clsact filter's place on a device.
const CLSACT_PRIORITY: u16 = 0x5347;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Xdp,
    TcIngress,
    TcEgress,
}

impl Place {
    const EVERY: [Self; 3] = [Self::Xdp, Self::TcIngress, Self::TcEgress];

    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
        }
    }

    const fn tc(self) -> Option<(&'static str, TcAttachType)> {
        match self {
            Self::Xdp => None,
            Self::TcIngress => Some((program::TC_INGRESS, TcAttachType::Ingress)),
            Self::TcEgress => Some((program::TC_EGRESS, TcAttachType::Egress)),
        }
    }
}

impl Kernel {
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
                    xdp(&mut self.ebpf)?;
                }
                Some((name, _)) => {
                    classifier(&mut self.ebpf, name)?;
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

    fn take_over(&mut self, place: Place, path: &PathBuf) -> Result<(), ProgramError> {
        let link = FdLink::from(PinnedLink::from_pin(path).map_err(link_error)?);
        match place.tc() {
            None => {
                let Ok(program) = xdp(&mut self.ebpf) else { return Ok(()) };
                let id = program.attach_to_link(link.try_into().map_err(link_error)?)?;
                drop(program.take_link(id)?);
            }
            Some((name, _)) => {
                let Ok(program) = classifier(&mut self.ebpf, name) else { return Ok(()) };
                let id = program.attach_to_link(link.try_into().map_err(link_error)?)?;
                drop(program.take_link(id)?);
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
        // TC works with every device and sees the guests' super-packets whole, so it is what `auto` means.
        let (ingress, other) = match hook {
            HookChoice::Xdp => (Place::Xdp, Place::TcIngress),
            HookChoice::Tc | HookChoice::Auto => (Place::TcIngress, Place::Xdp),
        };
        let new_egress = !self.link(ifindex, Place::TcEgress).exists();
        let egress = self.attach_at(interface, ifindex, Place::TcEgress)?;
        crash::at(Point::OneHookAttached);
        match self.attach_at(interface, ifindex, ingress) {
            Ok(ingress) => {
                self.detach_from(interface, ifindex, other);
                Ok(Attached { ingress, egress })
            }
            Err(error) => {
                if new_egress {
                    self.detach_from(interface, ifindex, Place::TcEgress);
                }
                Err(error)
            }
        }
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

    fn link(&self, ifindex: u32, place: Place) -> PathBuf {
        self.pins.links().join(format!("{ifindex}_{}", place.name()))
    }

    fn attach_at(
        &mut self,
        interface: &str,
        ifindex: u32,
        place: Place,
    ) -> Result<&'static str, KernelError> {
        let path = self.link(ifindex, place);
        let hook = if place == Place::Xdp { "xdp" } else { "tc" };
        let failed = |why: String| KernelError::Attach { interface: interface.to_owned(), hook, why };
        if path.exists() {
            return Ok(if place == Place::Xdp { "xdp" } else { "tcx" });
        }
        let Some((name, kind)) = place.tc() else {
            let program = xdp(&mut self.ebpf)?;
            let id =
                program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(|e| failed(xdp_advice(&e)))?;
            let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
            let link =
                FdLink::try_from(link).map_err(|_| failed("the kernel has no XDP links (5.9)".into()))?;
            link.pin(&path).map_err(|error| failed(chain(&error)))?;
            return Ok("xdp");
        };
        let clsact_only = self.tc_mode == TcMode::Clsact;
        let program = classifier(&mut self.ebpf, name)?;
        if !clsact_only {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            match program.attach_with_options(interface, kind, order) {
                Ok(id) => {
                    let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
                    let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
                    link.pin(&path).map_err(|error| failed(chain(&error)))?;
                    // An earlier daemon may have used clsact: both would judge each packet.
                    if let Ok(link) = clsact_link(interface, kind) {
                        let _ = link.detach();
                    }
                    return Ok("tcx");
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
        let ours = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
        let id = match program.attach_to_link(clsact_link(interface, kind).map_err(|e| failed(chain(&e)))?) {
            Ok(id) => id,
            // There is none to replace.
            Err(_) => program
                .attach_with_options(interface, kind, TcAttachOptions::Netlink(ours))
                .map_err(|error| failed(chain(&error)))?,
        };
        // The filter stays when the daemon goes: it is taken away only by `detach`.
        std::mem::forget(program.take_link(id).map_err(|error| failed(chain(&error)))?);
        Ok("clsact")
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
            && let Ok(link) = clsact_link(interface, kind)
        {
            // There may be no filter of ours, or no device any more.
            let _ = link.detach();
        }
    }
}

fn clsact_link(interface: &str, kind: TcAttachType) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, kind, CLSACT_PRIORITY, CLSACT_HANDLE, None)
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
fn chain(error: &dyn std::error::Error) -> String {
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
