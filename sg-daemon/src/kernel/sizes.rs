//! How many connections there is room for.

use sg_common::abi::map;
use sg_common::table::BUCKET;

use super::KernelError;

/// How many flows the connection tables hold. All of it is allocated when the tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Live flows: room for so many of each family, and as many of both together.
    pub live: u32,
    pub half_open_v4: u32,
    pub half_open_v6: u32,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self::new(Self::LIVE, Self::HALF_OPEN)
    }
}

impl TableSizes {
    /// The default of `sgd --live-flows`.
    pub const LIVE: u32 = 262_144;
    /// The default of `sgd --half-open-flows`.
    pub const HALF_OPEN: u32 = 131_072;
    /// Fewer could leave an interface without a share (511 interfaces share out 512 parts), and more would be many
    /// gigabytes.
    pub const MIN: u32 = 1024;
    pub const MAX: u32 = 16_777_216;

    /// `half_open` flows of IPv4, half as many of IPv6.
    pub const fn new(live: u32, half_open: u32) -> Self {
        Self { live, half_open_v4: half_open, half_open_v6: half_open / 2 }
    }

    /// One for every flow that there may be.
    const fn accounts(self) -> u32 {
        self.live + self.half_open_v4 + self.half_open_v6
    }

    /// What each map is made with.
    pub(super) fn by_map(self) -> [(&'static str, u32); 8] {
        let [v4, v6] = [self.half_open_v4, self.half_open_v6].map(|half_open| slots(self.live + half_open));
        [
            (map::FLOWS_V4, v4),
            (map::FLOWS_V6, v6),
            (map::TAGS_V4, v4 / BUCKET),
            (map::TAGS_V6, v6 / BUCKET),
            (map::RING_V4, self.half_open_v4),
            (map::RING_V6, self.half_open_v6),
            (map::ACCOUNTS_V4, self.accounts()),
            (map::ACCOUNTS_V6, self.accounts()),
        ]
    }

    /// What fits in maps of these sizes, and how many buckets the tables have, of IPv4 and of IPv6. `live` were asked for. A
    /// daemon that died while it made the maps may have left some of another size.
    pub(super) fn from_maps(
        live: u32,
        entries: impl Fn(&'static str) -> Result<u32, KernelError>,
    ) -> Result<(Self, [u32; 2]), KernelError> {
        let buckets = |slots, tags| Ok::<_, KernelError>((entries(slots)? / BUCKET).min(entries(tags)?));
        let (v4, v6) = (buckets(map::FLOWS_V4, map::TAGS_V4)?, buckets(map::FLOWS_V6, map::TAGS_V6)?);
        let (half_open_v4, half_open_v6) = (entries(map::RING_V4)?, entries(map::RING_V6)?);
        let fit = |buckets: u32, half_open| flows(buckets * BUCKET).saturating_sub(half_open);
        let live = live.min(fit(v4, half_open_v4)).min(fit(v6, half_open_v6));
        Ok((Self { live, half_open_v4, half_open_v6 }, [v4, v6]))
    }
}

/// How many slots a table has for so many flows, in whole buckets: with no more than three quarters of them in use, a flow
/// finds one, see `sg_common::table`.
const fn slots(flows: u32) -> u32 {
    (flows.div_ceil(3) * 4).next_multiple_of(BUCKET)
}

/// The same, turned round.
const fn flows(slots: u32) -> u32 {
    slots / 4 * 3
}

impl std::fmt::Display for TableSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { live, half_open_v4, half_open_v6 } = self;
        write!(f, "{live} live flows, {half_open_v4} half-open ones of IPv4 and {half_open_v6} of IPv6")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_d16_as_many_flows_fit_as_were_asked_for() {
        for live in [TableSizes::MIN, 1025, 262_143, TableSizes::LIVE, 1_000_000, TableSizes::MAX] {
            for half_open in [TableSizes::MIN, 1027, TableSizes::HALF_OPEN, TableSizes::MAX] {
                let sizes = TableSizes::new(live, half_open);
                let maps = sizes.by_map();
                let entries = |name| Ok(maps.iter().find(|map| map.0 == name).unwrap().1);
                let (found, buckets) = TableSizes::from_maps(live, entries).unwrap();
                assert_eq!(found, sizes);
                for (buckets, half_open) in buckets.into_iter().zip([half_open, half_open / 2]) {
                    let used = f64::from(live + half_open) / f64::from(buckets * BUCKET);
                    assert!((0.74..=0.75).contains(&used), "{live} {half_open} {used}");
                }
            }
        }
    }
}
