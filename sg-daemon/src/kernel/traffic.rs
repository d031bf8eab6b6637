//! What connections have carried, as far as it is counted flow by flow (`sg_common::account`), for whoever only reads.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use sg_common::abi::{Account, AccountKeyV4, AccountKeyV6, map};

use super::batch;
use super::flows::FlowKey;
use super::{Kernel, KernelError};

/// What has passed under one key since it is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Inbound, outbound.
    pub packets: [u64; 2],
    /// Of IP packets, with their headers.
    pub bytes: [u64; 2],
}

impl From<&Account> for Traffic {
    fn from(account: &Account) -> Self {
        Self { packets: account.packets, bytes: account.bytes }
    }
}

/// The tables of accounts, of IPv4 and of IPv6.
#[derive(Debug)]
pub struct Accounts([OwnedFd; 2]);

impl Kernel {
    /// The accounts, if packets are counted flow by flow.
    ///
    /// # Errors
    ///
    /// If this process has no file descriptor left.
    pub fn open_accounts(&self) -> Result<Option<Accounts>, KernelError> {
        if !self.is_accounting() {
            return Ok(None);
        }
        let [v4, v6] = &self.tables.account_fds;
        let clone = |fd: &OwnedFd, name| fd.try_clone().map_err(|source| KernelError::Io { name, source });
        Ok(Some(Accounts([clone(v4, map::ACCOUNTS_V4)?, clone(v6, map::ACCOUNTS_V6)?])))
    }
}

impl Accounts {
    /// What a flow has carried; `None` if it has no account: no packet came since counting began, or there was no room.
    pub fn of(&self, key: &FlowKey) -> Option<Traffic> {
        let [v4, v6] = &self.0;
        let account = match *key {
            FlowKey::V4(flow) => look_up(v4, &AccountKeyV4 { flow, dropped: 0 }),
            FlowKey::V6(flow) => look_up(v6, &AccountKeyV6 { flow, dropped: 0 }),
        };
        account.map(|account| Traffic::from(&account))
    }

    /// Every account of what passes, in no order.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn read(&self, mut each: impl FnMut(FlowKey, Traffic)) -> Result<(), KernelError> {
        let [v4, v6] = &self.0;
        batch::each(v4.as_fd(), |key: AccountKeyV4, account: Account| {
            if key.dropped == 0 {
                each(FlowKey::V4(key.flow), Traffic::from(&account));
            }
        })
        .map_err(|source| KernelError::Io { name: map::ACCOUNTS_V4, source })?;
        batch::each(v6.as_fd(), |key: AccountKeyV6, account: Account| {
            if key.dropped == 0 {
                each(FlowKey::V6(key.flow), Traffic::from(&account));
            }
        })
        .map_err(|source| KernelError::Io { name: map::ACCOUNTS_V6, source })
    }
}

/// The anonymous struct of `union bpf_attr` for one element, include/uapi/linux/bpf.h.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_ELEM`.
const LOOKUP_ELEM: libc::c_int = 1;

fn look_up<K: aya::Pod>(map: &OwnedFd, key: &K) -> Option<Account> {
    let mut account = std::mem::MaybeUninit::<Account>::uninit();
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: account.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the key is one of this map, and the value has room for one of its elements.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_ELEM, &raw mut attr, size_of::<ElementAttr>()) };
    // SAFETY: the kernel has written all of it if it says so.
    (result == 0).then(|| unsafe { account.assume_init() })
}
