//! The filter with a table of live flows that is full.

use std::fs;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use serde_json::json;
use sg_common::abi::{Be32, FLOW_LIVE, FLOW_REPLIED, Flow, FlowKeyV4, FlowPorts, Share, map};
use sg_common::conntrack::State;
use sg_daemon::enforce::Enforcer;
use sg_daemon::kernel::{FlowKey, Pins, Slot, TableSizes, TcMode};
use sg_daemon::policy;
use sg_tests::{Lab, PinDirectory};

use crate::fill::{memory, put};

/// Which flows of the table are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    All,
    Half,
    None,
}

impl Fill {
    pub fn text(self) -> &'static str {
        match self {
            Self::All => "all of them are over",
            Self::Half => "every other one is over",
            Self::None => "none is over",
        }
    }

    fn over(self, number: u32) -> bool {
        match self {
            Self::All => true,
            Self::Half => number.is_multiple_of(2),
            Self::None => false,
        }
    }
}

pub struct Table {
    enforcer: Enforcer,
    slot: Slot,
    flows: u32,
    shares: Array<MapData, Share>,
    // Last: goes after what is pinned in it.
    pins: PinDirectory,
}

/// The row of the only interface.
pub const ROW: u32 = 1;
pub const DEVICE: &str = "sg0";
/// The far end of its cable.
pub const PEER: &str = "sg0-peer";
/// The guest behind it.
pub const GUEST: [u8; 4] = [10, 0, 0, 5];

impl Table {
    /// To be called inside of a namespace: makes a device there and filters it by TC.
    pub fn open(lab: &Lab, flows: u32) -> anyhow::Result<Self> {
        for scope in ["all", "default"] {
            // The kernel would announce its own addresses, and the counters would count that.
            fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        let devices = std::process::Command::new("ip")
            .args(["link", "add", DEVICE, "up", "type", "veth", "peer", "name", PEER])
            .status()?;
        let up = std::process::Command::new("ip").args(["link", "set", PEER, "up"]).status()?;
        anyhow::ensure!(devices.success() && up.success(), "the devices cannot be made");

        let pins = lab.pins()?;
        let sizes = TableSizes::new(flows, TableSizes::HALF_OPEN);
        let mut enforcer = Enforcer::open(pins.path(), TcMode::Auto, sizes)?;
        let file = lab.directory().join("policy.json");
        let rules = json!([{ "protocol": "ALL", "destination": "0.0.0.0/0" }]);
        let policy = json!({
            "version": 1, "project": "bench", "vpc": "main",
            "security_groups": [{ "name": "test", "inbound": [], "outbound": rules }],
            "interfaces": [{ "name": DEVICE, "hook": "tc", "addresses": [std::net::Ipv4Addr::from(GUEST)],
                             "security_groups": ["test"] }],
        });
        fs::write(&file, policy.to_string())?;
        let loaded = policy::load(&[file]).map_err(|error| anyhow::anyhow!("{error}"))?;
        enforcer.apply(loaded.model)?;
        let slot = enforcer.devices()[DEVICE].slot;
        let shares = Map::Array(MapData::from_pin(Pins::at(pins.path()).map(map::SHARES))?).try_into()?;
        Ok(Self { enforcer, slot, flows, shares, pins })
    }

    pub fn pins(&self) -> &Path {
        self.pins.path()
    }

    /// Fills the table, whatever is there.
    pub fn fill(&mut self, fill: Fill) -> anyhow::Result<()> {
        let kernel = self.enforcer.kernel();
        let (now, hour) = (kernel.now()?, kernel.jiffies(3600));
        let zone = kernel.zone(self.slot).unwrap_or(0);
        let flow = |number| Flow {
            expires: if fill.over(number) { now - hour / 60 } else { now + hour },
            created: 0,
            place: FLOW_LIVE | ROW,
            policy: 1,
            state: State::UdpStream as u8,
            flags: FLOW_REPLIED,
            tcp: 0,
            sequence: [0; 6],
        };
        let key = |number: u32| FlowKeyV4 {
            zone_protocol: zone << 8 | 17,
            local: Be32::from_host(u32::from_be_bytes(GUEST)),
            // 256 ports a remote: neither is constant, and no two keys are equal.
            remote: Be32::from_host(0xc633_0000 | number >> 8),
            ports: FlowPorts { local: 10_000 + (number & 0xff) as u16, remote: 53 },
        };
        let memory = memory(self.pins.path());
        for number in 0..self.flows {
            put(&memory, &FlowKey::V4(key(number)), &flow(number));
        }
        let mut share = self.shares.get(&ROW, 0)?;
        anyhow::ensure!(share.zone == zone, "the interface has another row");
        share.live = u64::from(self.flows);
        self.shares.set(ROW, share, 0)?;
        Ok(())
    }

    pub fn collect(&mut self) -> u32 {
        self.enforcer.kernel().collect().unwrap()
    }

    /// Whether the collector has done what it should.
    pub fn check(&mut self, fill: Fill, collected: u32) {
        let over = (0..self.flows).filter(|number| fill.over(*number)).count() as u32;
        let (live, _) = self.enforcer.kernel().live_flows(self.slot);
        assert_eq!((collected, live), (over, u64::from(self.flows - over)), "{}", fill.text());
    }

    pub fn close(mut self) {
        self.enforcer.detach_everything().unwrap();
    }
}
