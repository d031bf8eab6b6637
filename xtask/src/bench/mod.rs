//! `cargo xtask bench`: what the filter costs. Figures, no verdicts: those would be the machine's.

mod accounts;
mod collect;
mod flows;
mod packets;
mod start;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure what it costs a packet to be counted in the account of its flow, for the flow log
    Accounts(accounts::Accounts),
    /// Measure what collecting connections that are over costs, and how long packets wait meanwhile
    Collect(collect::Collect),
    /// Measure how long listing, filtering and counting connections takes, and what traffic notices of it
    Flows(flows::Flows),
    /// Measure what a packet costs in the programs: established, reply, new, denied; few rules and many; one flow and a million
    Packets(packets::Packets),
    /// Measure how long sgd takes to be ready: cold, and after it was killed
    Start(start::Start),
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Accounts(accounts) => accounts.run(),
            Self::Collect(collect) => collect.run(),
            Self::Flows(flows) => flows.run(),
            Self::Packets(packets) => packets.run(),
            Self::Start(start) => start.run(),
        }
    }
}
