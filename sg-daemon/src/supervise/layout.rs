//! A start that finds the filter of another layout: refused, or, when the operator says so, one that replaces it.

use std::path::Path;

use anyhow::{Context as _, bail};
use sg_common::abi::ABI_VERSION;

use super::Options;
use crate::api::server::Shared;
use crate::kernel::{Layout, Pins, other_layouts};

/// What is to be replaced.
#[derive(Debug, Default)]
pub struct Replacement {
    old: Vec<Layout>,
    /// There is nothing of this layout yet.
    fresh: bool,
}

/// Looks for other layouts, before anything is made.
///
/// # Errors
///
/// If there is one and the operator has not said that it may go: it goes on filtering.
pub fn find(options: &Options) -> anyhow::Result<Replacement> {
    let old = other_layouts(&options.pin_dir)?;
    if !old.is_empty() && !options.replace_layout {
        bail!("{}", refusal(&options.pin_dir, &old));
    }
    let fresh = !Pins::at(&options.pin_dir).maps().exists();
    Ok(Replacement { old, fresh })
}

fn refusal(pin_dir: &Path, old: &[Layout]) -> String {
    let versions = versions(old);
    format!(
        "{} holds a filter with maps of layout {versions}, and this sgd ({}) makes layout {ABI_VERSION}: it cannot take over \
         what the other sgd knows. Nothing was changed: the old filter goes on with the policy that it has. Start the sgd that \
         made it again; or start this one with --replace-layout, once: it puts its policy in force beside the old one and \
         then removes that. No packet passes unfiltered, but connections are forgotten: one goes on only if a rule allows \
         what is sent next in its own direction",
        pin_dir.display(),
        env!("CARGO_PKG_VERSION"),
    )
}

fn versions(layouts: &[Layout]) -> String {
    let versions: Vec<String> = layouts.iter().map(|layout| layout.version.to_string()).collect();
    versions.join(" and ")
}

impl Replacement {
    /// Before the first policy.
    pub fn begin(&self, shared: &Shared) {
        if self.old.is_empty() {
            return;
        }
        tracing::warn!(
            "a filter of layout {} is replaced by one of layout {ABI_VERSION}; its connections are forgotten",
            versions(&self.old)
        );
        shared.enforcer().kernel().defer();
    }

    /// When the first policy is in force.
    ///
    /// # Errors
    ///
    /// If a device cannot be moved from one filter to the other. It is filtered by one of them.
    pub async fn finish(self, shared: &Shared) -> anyhow::Result<()> {
        if self.old.is_empty() {
            return Ok(());
        }
        let shared = shared.clone();
        let old = self.old;
        let replaced = tokio::task::spawn_blocking(move || {
            shared.enforcer().kernel().replace(&old)?;
            anyhow::Ok(versions(&old))
        });
        let versions = replaced.await?.context(
            "the other layout is replaced in part: each device is filtered by the old filter, the new one or both. Start \
             sgd again with --replace-layout to go on",
        )?;
        tracing::info!("the filter of layout {versions} is gone");
        Ok(())
    }

    /// There is no first policy: leaves nothing of this layout behind that was not there before.
    pub fn give_up(&self, shared: &Shared) {
        if self.old.is_empty() || !self.fresh {
            return;
        }
        if let Err(error) = shared.enforcer().kernel().pins().remove() {
            tracing::warn!(%error, "pins of layout {ABI_VERSION} stay, and filter nothing");
        }
    }
}
