//! What goes on now: connections, listed and counted while the tables are read, and how full the tables are.
//!
//! What is needed of the enforcer is taken while it is held, and then let go: a table with millions of connections takes
//! long to read, and nobody waits for that.

mod admit;
mod count;
mod filter;
mod list;
mod readers;
mod rulebook;
mod stats;
mod summary;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use self::admit::Admission;
pub use self::count::{Group, count};
pub use self::filter::{Filter, NOT_COUNTED, Wrong};
pub use self::list::{Order, list};
pub use self::readers::{Readers, Turn};
use self::rulebook::{Rule, Rulebook};
pub use self::stats::tables;
pub use self::summary::Summary;
use crate::api::types::{FlowAmount, FlowStatus, FlowTraffic};
use crate::compile::image::Image;
use crate::enforce::Enforcer;
use crate::kernel::{Entries, FlowTables, KernelError, RawFlow, Traffic};
use crate::policy::model::Model;
use crate::supervise::status::flow_status;

/// The connections as they are, and what else it takes to talk of them.
pub struct View {
    tables: FlowTables,
    /// The filtered devices, by name.
    interfaces: Vec<String>,
    /// Their indexes in `interfaces`.
    zones: HashMap<u32, u32>,
    admission: Admission,
    /// What is in force, if anything is.
    policy: Option<(Arc<Model>, Arc<Image>)>,
}

/// A connection of a filtered device.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Index of its interface, in the order of their names.
    interface: u32,
    raw: RawFlow,
    /// Packets or bytes, if that is what rows are sorted by.
    weight: u64,
}

impl View {
    /// # Errors
    ///
    /// If the kernel's clock cannot be read.
    pub fn new(enforcer: &mut Enforcer) -> Result<Self, KernelError> {
        let mut zones: Vec<(String, u32)> =
            enforcer.zones().into_iter().map(|(zone, name)| (name, zone)).collect();
        zones.sort();
        let (kernel, active, _) = enforcer.parts();
        let tables = kernel.flow_tables()?;
        let interfaces: Vec<String> = zones.iter().map(|(name, _)| name.clone()).collect();
        let policy = active.map(|active| (Arc::clone(&active.model), Arc::clone(&active.image)));
        let admission = Admission::new(policy.as_ref().map(|(_, image)| Arc::clone(image)), &interfaces);
        let zones = (0..).zip(zones).map(|(index, (_, zone))| (zone, index)).collect();
        Ok(Self { tables, interfaces, zones, admission, policy })
    }

    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Every connection that fits, in no order, until `each` has enough. What the tables hold is of all.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn read(
        &self,
        filter: &Filter,
        mut each: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<Entries, KernelError> {
        self.tables.read(|raw| {
            // A zone without an interface belongs to a device that is gone.
            let Some(&interface) = self.zones.get(&raw.zone()) else { return ControlFlow::Continue(()) };
            let row = Row { interface, raw, weight: 0 };
            if filter.fits(self, &row) { each(row) } else { ControlFlow::Continue(()) }
        })
    }

    /// A connection as it is told of.
    pub fn describe(&self, row: &Row) -> Option<FlowStatus> {
        let flow = self.tables.describe(&row.raw)?;
        let admitted = self.admission.admits(row.interface, &flow);
        let told = flow_status(self.name(row.interface), &flow, admitted);
        let traffic = self.is_accounting().then(|| self.tables.traffic(&row.raw).map(FlowTraffic::from));
        Some(FlowStatus { traffic, ..told })
    }

    /// Whether packets are counted flow by flow.
    pub fn is_accounting(&self) -> bool {
        self.tables.is_accounting()
    }

    fn name(&self, interface: u32) -> &str {
        self.interfaces.get(interface as usize).map_or("", String::as_str)
    }

    /// Which rules in force let connections begin.
    fn rulebook(&self) -> Option<Rulebook> {
        let (model, image) = self.policy.as_ref()?;
        Some(Rulebook::new(Arc::clone(model), Arc::clone(image), &self.interfaces))
    }

    fn is_admitted(&self, row: &Row) -> bool {
        self.tables.describe(&row.raw).is_some_and(|flow| self.admission.admits(row.interface, &flow))
    }

    /// Seconds since its first packet.
    fn age(&self, row: &Row) -> u64 {
        self.tables.age(&row.raw)
    }
}

impl From<Traffic> for FlowTraffic {
    fn from(Traffic { packets: [packets_in, packets_out], bytes: [bytes_in, bytes_out] }: Traffic) -> Self {
        Self {
            inbound: FlowAmount { packets: packets_in, bytes: bytes_in },
            outbound: FlowAmount { packets: packets_out, bytes: bytes_out },
        }
    }
}
