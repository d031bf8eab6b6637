//! `GET /v1/stats`: counters, how full the tables are, and who has most connections.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::Params;
use super::live::Stats;
use super::routes::{Doc, Routes};
use super::server::{Failure, Shared, blocking, internal};
use crate::live::{Summary, View, tables};
use crate::supervise::status::status;

/// The query of `GET /v1/stats`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatsQuestion {
    /// How many of the remotes with most connections to tell of, at most 100, and, where packets and bytes are counted, how many
    /// of those with most of them; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub talkers: Option<usize>,
}

pub(super) fn routes() -> Routes {
    let what = "Counters, how full the tables are, and who has most connections";
    Routes::new().get("/v1/stats", get_stats, Doc::new("getStats", what))
}

async fn get_stats(
    State(shared): State<Shared>,
    Params(StatsQuestion { talkers }): Params<StatsQuestion>,
) -> Result<Json<Stats>, Failure> {
    let summary = summary(&shared).await?;
    blocking(move || {
        let refused = shared.refused().clone();
        let changes = shared.changes().clone();
        let mut enforcer = shared.enforcer();
        let status = status(&mut enforcer, refused, &changes).map_err(internal)?;
        Ok(Stats {
            at_ms: shared.readers.uptime_ms(),
            swaps: enforcer.swaps(),
            status,
            tables: tables(&mut enforcer, &summary),
            collector: enforcer.kernel().collector,
            talkers: talkers.map(|limit| summary.talkers(limit)),
        })
    })
    .await
    .map(Json)
}

/// The last look at the tables, or a new one; one at a time, and whoever asks meanwhile gets the same.
async fn summary(shared: &Shared) -> Result<Summary, Failure> {
    let mut last = shared.readers.summary.clone().lock_owned().await;
    if let Some(summary) = last.as_ref().filter(|summary| summary.is_fresh()) {
        return Ok(summary.clone());
    }
    let shared = shared.clone();
    // In the work itself, which goes on if whoever asked goes away.
    blocking(move || {
        let view = View::new(&mut shared.enforcer()).map_err(internal)?;
        let summary = Summary::new(&view).map_err(internal)?;
        *last = Some(summary.clone());
        Ok(summary)
    })
    .await
}
