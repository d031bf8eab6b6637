//! What the collector does with accounts: it records them, and deletes those that are over.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_map_delete_elem, bpf_map_lookup_elem};
use sg_common::abi::{Account, AccountKeyV4, AccountKeyV6, Be32, FlowPorts, FlowRecord, collect};
use sg_common::family::Aligned;
use sg_common::judge::Environment as _;
use sg_common::table;

use crate::collect::Collection;
use crate::maps::{FlowsV4, FlowsV6, Kernel, record, share_zone};

/// A key of accounts of one family.
pub trait AccountKey: Copy {
    /// Whether the flow of that key lives.
    fn is_alive(&self, now: u64) -> bool;
    fn zone_protocol(&self) -> u32;
    fn dropped(&self) -> u32;
    fn tell(&self, record: &mut FlowRecord);
}

impl AccountKey for AccountKeyV4 {
    #[inline(always)]
    fn is_alive(&self, now: u64) -> bool {
        table::find(&FlowsV4, Aligned(self.flow).words()).is_some_and(|flow| flow.expires() > now)
    }

    #[inline(always)]
    fn zone_protocol(&self) -> u32 {
        self.flow.zone_protocol
    }

    #[inline(always)]
    fn dropped(&self) -> u32 {
        self.dropped
    }

    #[inline(always)]
    fn tell(&self, record: &mut FlowRecord) {
        record.family = 4;
        record.local = [self.flow.local, Be32(0), Be32(0), Be32(0)];
        record.remote = [self.flow.remote, Be32(0), Be32(0), Be32(0)];
        record.ports = self.flow.ports;
    }
}

impl AccountKey for AccountKeyV6 {
    #[inline(always)]
    fn is_alive(&self, now: u64) -> bool {
        table::find(&FlowsV6, Aligned(self.flow).words()).is_some_and(|flow| flow.expires() > now)
    }

    #[inline(always)]
    fn zone_protocol(&self) -> u32 {
        self.flow.zone_protocol
    }

    #[inline(always)]
    fn dropped(&self) -> u32 {
        self.dropped
    }

    #[inline(always)]
    fn tell(&self, record: &mut FlowRecord) {
        record.family = 6;
        record.local = self.flow.local;
        record.remote = self.flow.remote;
        record.ports = self.flow.ports;
    }
}

/// Called with each account. As with flows, what is decided is decided by what a look-up of the copied key finds: the element
/// at hand may be given to another key meanwhile.
pub unsafe extern "C" fn account<K: AccountKey>(
    table: *mut c_void,
    key: *const K,
    _: *const Account,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it; what a look-up finds stays
    // readable until the program ends.
    unsafe {
        let key = key.read_volatile();
        let zone = key.zone_protocol() >> 8;
        let account = bpf_map_lookup_elem(table, (&raw const key).cast()).cast::<Account>();
        if account.is_null() {
            return 0;
        }
        let asked = (*collection).accounts;
        let last = (&raw const (*account).last).read_volatile();
        // A packet of this moment may be about to begin a flow of this key.
        let idle = last < (*collection).before;
        let purged = (*collection).zone != 0 && zone == (*collection).zone;
        let forgotten = asked & collect::FORGET != 0 && asked & collect::ALL != 0;
        // What is dropped has no flow whose end one could wait for: whoever tries tries again, for a while.
        let over = if key.dropped() == 0 {
            idle && !key.is_alive((*collection).now)
        } else {
            last < (*collection).before_drops
        };
        let over = purged || forgotten || over;
        if asked & collect::FORGET == 0 && !tell(&key, account, &*collection, last, over) {
            // The rest is found by the next run.
            (*collection).deleted |= collect::FULL;
            return 1;
        }
        if over {
            let row = (&raw const (*account).row).read_volatile();
            let one: u64 = if key.dropped() == 0 { 1 } else { 1 << 32 };
            if bpf_map_delete_elem(table, (&raw const key).cast()) == 0 && share_zone(row) == zone {
                let _ = Kernel::<true>.accounts(row, one.wrapping_neg());
            }
        }
    }
    0
}

/// Records what no record has told of, if it is time. False if there is no room.
///
/// # Safety
///
/// The account must be one that a look-up has found.
#[inline(always)]
unsafe fn tell<K: AccountKey>(
    key: &K,
    account: *mut Account,
    collection: &Collection,
    last: u64,
    over: bool,
) -> bool {
    // SAFETY: as promised. Each number is read once; what is added to it from now on is the next record's.
    unsafe {
        let now = [
            (&raw const (*account).packets[0]).read_volatile(),
            (&raw const (*account).packets[1]).read_volatile(),
            (&raw const (*account).bytes[0]).read_volatile(),
            (&raw const (*account).bytes[1]).read_volatile(),
        ];
        let packets = [
            now[0].wrapping_sub((*account).recorded_packets[0]),
            now[1].wrapping_sub((*account).recorded_packets[1]),
        ];
        let bytes = [
            now[2].wrapping_sub((*account).recorded_bytes[0]),
            now[3].wrapping_sub((*account).recorded_bytes[1]),
        ];
        if packets[0] | packets[1] | bytes[0] | bytes[1] == 0 {
            return true;
        }
        let noted = (&raw const (*account).first).read_volatile();
        // A packet that came while the last record was made has found its time noted, and that note taken away.
        let first = if noted == 0 || noted > last { last } else { noted };
        let due = over
            || collection.accounts & collect::ALL != 0
            || first.wrapping_add(collection.interval) <= collection.now;
        if !due {
            return true;
        }
        let mut what = FlowRecord {
            packets,
            bytes,
            first,
            last,
            zone_protocol: key.zone_protocol(),
            local: [Be32(0); 4],
            remote: [Be32(0); 4],
            ports: FlowPorts { local: 0, remote: 0 },
            policy: (&raw const (*account).policy).read_volatile(),
            tcp_flags: (&raw const (*account).tcp_flags).read_volatile(),
            kind: (&raw const (*account).kind).read_volatile(),
            family: 0,
        };
        key.tell(&mut what);
        if !record(&what) {
            return false;
        }
        (&raw mut (*account).recorded_packets[0]).write_volatile(now[0]);
        (&raw mut (*account).recorded_packets[1]).write_volatile(now[1]);
        (&raw mut (*account).recorded_bytes[0]).write_volatile(now[2]);
        (&raw mut (*account).recorded_bytes[1]).write_volatile(now[3]);
        (&raw mut (*account).first).write_volatile(0);
        // Those that have come meanwhile stay.
        core::intrinsics::atomic_and::<u32, u32, { core::intrinsics::AtomicOrdering::Relaxed }>(
            &raw mut (*account).tcp_flags,
            !what.tcp_flags,
        );
        true
    }
}
