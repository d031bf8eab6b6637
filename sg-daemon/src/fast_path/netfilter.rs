//! What netfilter would do to packets of bridges, and would not hear of those that go past them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::bridges::Obstacle;
use crate::enforce::links::{HEADER, word};

/// The files that say whether bridges show packets to netfilter (Documentation/networking/ip-sysctl.rst, /proc/sys/net/bridge).
const CALLS: [&str; 3] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"];
/// The modules of ebtables' tables (net/bridge/netfilter), which the kernel loads when somebody first uses one.
const EBTABLES: [&str; 3] = ["ebtable_filter", "ebtable_nat", "ebtable_broute"];

/// `NFNLGRP_NFTABLES` and `NFNL_SUBSYS_NFTABLES`, include/uapi/linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWCHAIN`, `NFT_MSG_GETCHAIN` and `NFTA_CHAIN_HOOK`, include/uapi/linux/netfilter/nf_tables.h.
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const CHAIN_HOOK: u16 = 4;
/// include/uapi/linux/netfilter.h
const NFPROTO_BRIDGE: u8 = 7;
/// `struct nfgenmsg`: the family, a version, and two bytes more.
const GENERAL: usize = 4;
/// `NLMSG_ERROR` and `NLMSG_DONE`, include/uapi/linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Follows netfilter, in the network namespace of who makes it.
#[derive(Debug)]
pub struct Netfilter {
    calls: [Option<File>; 3],
    /// `None` if the kernel has no nftables and never will.
    nftables: Option<Nftables>,
    has_chains: bool,
    sysctls: PathBuf,
    modules: PathBuf,
}

#[derive(Debug)]
struct Nftables {
    changes: Socket,
    questions: Socket,
}

impl Netfilter {
    /// # Errors
    ///
    /// If the kernel refuses to tell.
    pub fn new() -> io::Result<Self> {
        let mut netfilter = Self::without_nftables("/proc/sys/net/bridge", "/sys/module");
        netfilter.nftables = Nftables::new()?;
        if let Some(nftables) = &netfilter.nftables {
            netfilter.has_chains = nftables.have_chains()?;
        }
        Ok(netfilter)
    }

    fn without_nftables(sysctls: impl Into<PathBuf>, modules: impl Into<PathBuf>) -> Self {
        Self {
            calls: [None, None, None],
            nftables: None,
            has_chains: false,
            sysctls: sysctls.into(),
            modules: modules.into(),
        }
    }

    /// Why no packet may go past any bridge, if there is a reason.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to tell.
    pub fn obstacle(&mut self) -> io::Result<Option<Obstacle>> {
        if let Some(nftables) = &self.nftables
            && nftables.changed()?
        {
            self.has_chains = nftables.have_chains()?;
        }
        Ok(if self.sees_bridges() {
            Some(Obstacle::Netfilter)
        } else if self.has_chains {
            Some(Obstacle::BridgeChains)
        } else if EBTABLES.iter().any(|module| self.modules.join(module).exists()) {
            Some(Obstacle::Ebtables)
        } else {
            None
        })
    }

    /// Whether all bridges show what passes them to netfilter.
    fn sees_bridges(&mut self) -> bool {
        let sysctls = &self.sysctls;
        CALLS.iter().zip(&mut self.calls).any(|(name, file)| is_on(&sysctls.join(name), file))
    }
}

/// Whether such a file says anything but 0. It is asked for often, so it stays open.
fn is_on(path: &Path, file: &mut Option<File>) -> bool {
    if file.is_none() {
        match File::open(path) {
            Ok(opened) => *file = Some(opened),
            // Without br_netfilter there are no such files.
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        }
    }
    let mut text = [0; 16];
    match file.as_ref().map(|file| file.read_at(&mut text, 0)) {
        Some(Ok(length)) => text.get(..length).unwrap_or_default().trim_ascii() != b"0",
        // The module may have gone; next time there is another file or none.
        _ => {
            *file = None;
            true
        }
    }
}

impl Nftables {
    fn new() -> io::Result<Option<Self>> {
        let mut changes = match Socket::new(NETLINK_NETFILTER) {
            Ok(socket) => socket,
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            Err(error) => return Err(error),
        };
        changes.bind_auto()?;
        changes.add_membership(GROUP)?;
        changes.set_non_blocking(true)?;
        let mut questions = Socket::new(NETLINK_NETFILTER)?;
        questions.bind_auto()?;
        questions.connect(&SocketAddr::new(0, 0))?;
        Ok(Some(Self { changes, questions }))
    }

    /// Whether anything has happened since it was asked last.
    fn changed(&self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.changes.recv_from_full() {
                Ok(_) => changed = true,
                // There was more than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether there is a chain that packets of bridges meet. Where nftables is a module that is not loaded, the kernel loads it to answer.
    fn have_chains(&self) -> io::Result<bool> {
        self.questions.send(&question(), 0)?;
        let mut found = false;
        loop {
            let (datagram, _) = self.questions.recv_from_full()?;
            let answer = read(&datagram)?;
            found |= answer.found;
            if answer.is_last {
                return Ok(found);
            }
        }
    }
}

/// For all chains of the family `bridge`.
fn question() -> Vec<u8> {
    let length = (HEADER + GENERAL) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((SUBSYSTEM << 8 | GET_CHAIN).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // A number of the question and of who asks.
    bytes.extend([0; 8]);
    bytes.extend([NFPROTO_BRIDGE, 0, 0, 0]);
    bytes
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    found: bool,
    is_last: bool,
}

/// A part of the answer. Chains without a hook are met by nothing unless one with a hook sends it there.
fn read(mut bytes: &[u8]) -> io::Result<Answer> {
    let mut found = false;
    while let Some(length) = word(bytes, 0).map(|length| length as usize) {
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match half(message, 4) {
            Some(DONE) => return Ok(Answer { found, is_last: true }),
            Some(ERROR) => {
                let code = word(message, HEADER).map_or(0, |code| -(code.cast_signed()));
                // That is what a kernel says that has no nftables.
                return if code == libc::EINVAL || code == libc::EOPNOTSUPP {
                    Ok(Answer { found: false, is_last: true })
                } else {
                    Err(io::Error::from_raw_os_error(code))
                };
            }
            Some(kind) if kind == SUBSYSTEM << 8 | NEW_CHAIN => {
                found |= has_hook(message.get(HEADER + GENERAL..).unwrap_or_default());
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer { found, is_last: false })
}

/// Whether one of the attributes (`struct nlattr`) of a chain is its hook.
fn has_hook(mut attributes: &[u8]) -> bool {
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        // Two bits of the type are flags.
        if kind & 0x3fff == CHAIN_HOOK {
            return true;
        }
        let length = usize::from(length).next_multiple_of(4).max(4);
        attributes = attributes.get(length..).unwrap_or_default();
    }
    false
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![NFPROTO_BRIDGE, 0, 0, 0];
        for (kind, value) in attributes {
            body.extend(((4 + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        message(SUBSYSTEM << 8 | NEW_CHAIN, &body)
    }

    #[test]
    fn a_chain_with_a_hook_is_found_among_others() {
        let plain = chain(&[(1, b"filter\0"), (3, b"c\0")]);
        // Nested attributes have a flag.
        let base = chain(&[(1, b"filter\0"), (3, b"c\0"), (CHAIN_HOOK | 0x8000, &[0; 16])]);
        let done = message(DONE, &[0; 4]);
        for (parts, found, is_last) in [
            (vec![&plain], false, false),
            (vec![&plain, &base], true, false),
            (vec![&base, &plain, &done], true, true),
            (vec![&done], false, true),
        ] {
            let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
            assert_eq!(read(&bytes).unwrap(), Answer { found, is_last });
        }
    }

    #[test]
    fn a_kernel_without_nftables_has_no_chains_and_any_other_refusal_is_an_error() {
        let refused = |code: i32| read(&message(ERROR, &(-code).to_ne_bytes()));
        assert_eq!(refused(libc::EINVAL).unwrap(), Answer { found: false, is_last: true });
        assert_eq!(refused(libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(read(&[8, 0, 0, 0]).is_err(), "a message that is shorter than its header");
        assert!(read(&message(DONE, &[])[..12]).is_err(), "a message that is cut off");
    }

    #[test]
    fn files_and_modules_say_what_bridges_show_to_netfilter_and_to_ebtables() {
        let directory = tempfile::tempdir().unwrap();
        let modules = tempfile::tempdir().unwrap();
        let mut netfilter = Netfilter::without_nftables(directory.path(), modules.path());
        let mut obstacle = || netfilter.obstacle().unwrap();
        assert_eq!(obstacle(), None, "without br_netfilter");
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        CALLS.iter().for_each(|name| write(name, "0\n"));
        assert_eq!(obstacle(), None);
        for name in CALLS {
            write(name, "1\n");
            assert_eq!(obstacle(), Some(Obstacle::Netfilter), "{name}");
            write(name, "0\n");
            assert_eq!(obstacle(), None, "{name}");
        }
        write(CALLS[1], "");
        assert_eq!(obstacle(), Some(Obstacle::Netfilter), "what is not understood is not trusted");
        write(CALLS[1], "0\n");
        std::fs::create_dir(modules.path().join("ebtables")).unwrap();
        assert_eq!(obstacle(), None, "no table yet");
        for module in EBTABLES {
            std::fs::create_dir(modules.path().join(module)).unwrap();
            assert_eq!(obstacle(), Some(Obstacle::Ebtables), "{module}");
            std::fs::remove_dir(modules.path().join(module)).unwrap();
        }
    }
}
