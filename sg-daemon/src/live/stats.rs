//! How full the tables are, with what the daemon knows of itself.

use sg_common::abi::{DATAGRAMS, MAX_INTERFACES, MAX_ZONES};

use super::Summary;
use super::summary::millis;
use crate::api::live::TableFill;
use crate::enforce::Enforcer;
use crate::plan::Table;

/// How full every table is. The connection tables are as the summary found them.
pub fn tables(enforcer: &mut Enforcer, summary: &Summary) -> Vec<TableFill> {
    let entries = enforcer.resident().entries();
    let port_tables = enforcer.resident().port_tables() as u64;
    let devices = enforcer.devices().len() as u64;
    let kernel = enforcer.kernel();
    let (sizes, capacity, zones) = (kernel.sizes(), kernel.capacity(), kernel.zones_used().into());
    let live = kernel.live_flows_of_all();
    let (accounts, account_room) = kernel.accounts_of_all();
    let seen = &summary.entries;
    let old = millis(summary.age());
    let now = 0;
    let mut tables = vec![
        fill("flows_live", "live connections, of both families", live, sizes.live, now),
        fill("flows_live_v4", "live connections of IPv4", seen.live_v4, sizes.live, old),
        fill("flows_live_v6", "live connections of IPv6", seen.live_v6, sizes.live, old),
        fill("flows_half_open_v4", "half-open connections of IPv4", seen.half_v4, sizes.half_open_v4, old),
        fill("flows_half_open_v6", "half-open connections of IPv6", seen.half_v6, sizes.half_open_v6, old),
        fill("fragments_v4", "datagrams in pieces, of IPv4", summary.fragments.0, DATAGRAMS, old),
        fill("fragments_v6", "datagrams in pieces, of IPv6", summary.fragments.1, DATAGRAMS, old),
        fill("accounts", "connections whose packets are counted", accounts, account_room, now),
        fill("interfaces", "filtered interfaces", devices, MAX_INTERFACES, now),
    ];
    for table in Table::OF_ENTRIES {
        let of = |numbers: [u32; Table::COUNT]| numbers.get(table as usize).copied().unwrap_or(0);
        tables.push(fill(table.name(), table.what(), of(entries).into(), of(capacity.entries), now));
    }
    tables.push(fill("port_tables", Table::PortSets.what(), port_tables, capacity.port_tables, now));
    tables.push(fill("zones", "devices ever filtered since the filter was made", zones, MAX_ZONES, now));
    tables
}

fn fill(table: &str, what: &str, used: u64, size: u32, age_ms: u64) -> TableFill {
    TableFill { table: table.to_owned(), what: what.to_owned(), used, size: size.into(), age_ms }
}
