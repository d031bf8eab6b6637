//! What each rule has allowed: connections that it began, and packets of kinds that begin none.
//!
//! A packet that several rules allow counts for each of them. Connections that go on count once, when they begin. Counts
//! belong to what a rule says, so they survive reloads and edits of other rules; a file in the state directory, written every
//! minute and when the daemon ends, carries them over a restart. What is lost (more than 20,000 new connections a second on
//! a CPU; a crash: the last minute) is at least counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{Known, Other, RuleKey, every, others};
use crate::api::types::Direction;
use crate::enforce::View;
use crate::policy::model::Model;

/// `GET /v1/rules/hits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleHitsAnswer {
    /// Every rule of the policy in force: those that stand in it, and those that hold because a list is absent.
    pub rules: Vec<RuleHits>,
    /// Packets that rules have allowed and that are counted for none: too many came at once, or the policy that
    /// allowed them is not known any more.
    pub unattributed: u64,
}

/// What a rule has allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleHits {
    /// Empty for rules of the settings.
    pub project: String,
    /// Absent for `default`, which is the project's, and for rules of the settings.
    pub vpc: Option<String>,
    /// Absent for rules of the settings.
    pub group: Option<String>,
    pub direction: Direction,
    /// `inbound[0]`, counted as in the file.
    pub rule: String,
    /// The rule in words.
    pub text: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// New connections, and packets of kinds that begin none.
    pub hits: u64,
    /// Of the last one: seconds since 1970.
    pub last_hit: Option<u64>,
    /// Since when the rule is counted: seconds since 1970.
    pub since: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    hits: u64,
    last_hit: Option<u64>,
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    unattributed: u64,
    /// How much the kernel had lost by then.
    lost: u64,
    rules: Vec<SavedRule>,
}

#[derive(Serialize, Deserialize)]
struct SavedRule {
    #[serde(flatten)]
    key: RuleKey,
    #[serde(flatten)]
    count: Count,
}

/// A group's rules of one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Empty for rules of the settings.
    pub project: String,
    /// Empty for `default`, which is the project's, and for rules of the settings.
    pub vpc: String,
    /// Empty for rules of the settings.
    pub group: String,
    /// `inbound` or `outbound`.
    pub list: String,
}

impl From<&RuleKey> for GroupKey {
    fn from(key: &RuleKey) -> Self {
        let RuleKey { project, vpc, group, list, .. } = key;
        Self {
            project: project.clone(),
            vpc: vpc.clone().unwrap_or_default(),
            group: group.clone().unwrap_or_default(),
            list: list.clone(),
        }
    }
}

/// Whether a rule is written in the policy, or holds because of what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stands(bool);

/// What metrics tell of rules: bounded, however many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HitsSummary {
    /// Rules that stand in the policy in force.
    pub rules: u64,
    /// Those of them that have never had a hit.
    pub unused: u64,
    /// As [`RuleHitsAnswer::unattributed`].
    pub unattributed: u64,
    /// Packets that rules of a group have allowed, since the daemon was started: each once, however many of its rules allow it.
    pub groups: Vec<(Arc<GroupKey>, u64)>,
    /// Those of all groups beyond [`MOST_GROUPS`], inbound and outbound.
    pub others: [u64; 2],
}

/// So many groups and directions are counted one by one: each is a time series, and a policy may have very many groups.
pub const MOST_GROUPS: usize = 1000;

const VERSION: u32 = 1;
/// Rules that are in no policy any more are forgotten after this many seconds without a hit: they may come back.
const REMEMBERED: u64 = 90 * 24 * 60 * 60;

/// The counts of all rules.
#[derive(Debug)]
pub struct Hits {
    path: PathBuf,
    counts: HashMap<Arc<RuleKey>, Count>,
    /// The rules in force, and which of them stand in the policy.
    in_force: HashMap<Arc<RuleKey>, Stands>,
    /// Of this daemon's life. A group keeps its place as long as it is in the policy, so no number ever falls.
    groups: BTreeMap<Arc<GroupKey>, u64>,
    /// The groups of rules in force that have a place.
    of_rules: HashMap<Arc<RuleKey>, Arc<GroupKey>>,
    others: [u64; 2],
    unattributed: u64,
    /// What of the kernel's losses is in `unattributed` already.
    lost: u64,
    changed: bool,
}

impl Hits {
    /// With what was saved. A file that cannot be read is set aside: counting begins anew.
    pub fn load(state_dir: &Path) -> Self {
        let path = state_dir.join("rule-hits.json");
        let mut hits = Self {
            path,
            counts: HashMap::new(),
            in_force: HashMap::new(),
            groups: BTreeMap::new(),
            of_rules: HashMap::new(),
            others: [0; 2],
            unattributed: 0,
            lost: 0,
            changed: false,
        };
        let text = match fs::read(&hits.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return hits,
            Err(error) => {
                tracing::warn!(%error, "the hits of rules in {} cannot be read; counting begins anew", hits.path.display());
                return hits;
            }
        };
        match serde_json::from_slice::<Saved>(&text) {
            Ok(saved) if saved.version == VERSION => {
                hits.unattributed = saved.unattributed;
                hits.lost = saved.lost;
                hits.counts = saved.rules.into_iter().map(|rule| (Arc::new(rule.key), rule.count)).collect();
            }
            bad => {
                let aside = hits.path.with_extension("json.bad");
                let why =
                    bad.err().map_or_else(|| "of another version".to_owned(), |error| error.to_string());
                tracing::warn!(
                    "the hits of rules in {} are not what this sgd has written ({why}); kept as {}, counting begins anew",
                    hits.path.display(),
                    aside.display()
                );
                let _ = fs::rename(&hits.path, aside);
            }
        }
        hits
    }

    /// Writes the counts down, if there is something new.
    pub fn save(&mut self) {
        if !self.changed {
            return;
        }
        self.forget(seconds(SystemTime::now()));
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the hits of rules cannot be saved in {}", self.path.display());
        } else {
            self.changed = false;
        }
    }

    fn write(&self) -> std::io::Result<()> {
        // In order, so that equal counts are equal files.
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_unstable_by_key(|(key, _)| *key);
        let rules = counts.into_iter().map(|(key, count)| SavedRule { key: (**key).clone(), count: *count });
        let saved = Saved {
            version: VERSION,
            unattributed: self.unattributed,
            lost: self.lost,
            rules: rules.collect(),
        };
        let new = self.path.with_extension("json.new");
        fs::write(&new, serde_json::to_vec(&saved)?)?;
        // A crash leaves the old file or the new one; of the last minute there is no promise.
        fs::rename(&new, &self.path)
    }

    /// Counts a packet for the rules that allow it.
    pub fn count<'k>(&mut self, rules: impl Iterator<Item = &'k Arc<RuleKey>>, time: SystemTime) {
        let time = seconds(time);
        let mut attributed = false;
        let mut groups: Vec<&Arc<GroupKey>> = Vec::new();
        let mut beyond = [false; 2];
        for key in rules {
            match self.of_rules.get(key) {
                Some(group) if groups.iter().any(|known| Arc::ptr_eq(known, group)) => {}
                Some(group) => groups.push(group),
                None => {
                    let [inbound, outbound] = &mut beyond;
                    *(if key.list == "inbound" { inbound } else { outbound }) = true;
                }
            }
            let new = Count { hits: 0, last_hit: None, since: time };
            let count = self.counts.entry(Arc::clone(key)).or_insert(new);
            count.hits += 1;
            count.last_hit = count.last_hit.max(Some(time));
            attributed = true;
        }
        if !attributed {
            self.unattributed += 1;
        }
        for group in groups {
            if let Some(count) = self.groups.get_mut(group) {
                *count += 1;
            }
        }
        for (others, beyond) in self.others.iter_mut().zip(beyond) {
            *others += u64::from(beyond);
        }
        self.changed = true;
    }

    /// How many packets the kernel could not tell of since its maps were made, which may have been an earlier daemon's.
    pub fn lost_so_far(&mut self, lost: u64) {
        // Fewer than before: the maps are others.
        let more = lost.checked_sub(self.lost).unwrap_or(lost);
        self.unattributed += more;
        self.changed |= more > 0;
        self.lost = lost;
    }

    /// A policy is in force, after another one if that is known: its rules are counted from now on.
    pub fn follow(&mut self, model: &Model, before: Option<&Model>) {
        let now = seconds(SystemTime::now());
        match before.and_then(|before| others(before, model)) {
            Some(others) => others.into_iter().for_each(|other| self.follow_other(other, now)),
            None => self.follow_all(model, now),
        }
    }

    fn follow_all(&mut self, model: &Model, now: u64) {
        let rules = every(model);
        rules.iter().for_each(|(_, known)| self.is_in_force(&known.key, now));
        let stands = |known: &Known| Stands(known.text.file.is_some());
        self.in_force = rules.iter().map(|(_, known)| (Arc::clone(&known.key), stands(known))).collect();
        self.follow_groups(rules.iter().map(|(_, known)| &known.key));
        self.forget(now);
    }

    /// Of a list that has other rules too.
    fn follow_other(&mut self, other: Other, now: u64) {
        match other {
            Other::Gone(key) => {
                self.in_force.remove(&key);
                self.of_rules.remove(&key);
            }
            Other::Come(key) => {
                let key = Arc::new(key);
                self.is_in_force(&key, now);
                if let Some((group, _)) = self.groups.get_key_value(&GroupKey::from(&*key)) {
                    self.of_rules.insert(Arc::clone(&key), Arc::clone(group));
                }
                self.in_force.insert(key, Stands(true));
            }
        }
    }

    fn is_in_force(&mut self, key: &Arc<RuleKey>, now: u64) {
        self.counts.entry(Arc::clone(key)).or_insert_with(|| {
            self.changed = true;
            Count { hits: 0, last_hit: None, since: now }
        });
    }

    /// Counts of rules that were in a policy long ago; none before a policy is known.
    fn forget(&mut self, now: u64) {
        if self.in_force.is_empty() {
            return;
        }
        self.counts.retain(|key, count| {
            self.in_force.contains_key(key)
                || now.saturating_sub(count.last_hit.unwrap_or(count.since)) < REMEMBERED
        });
    }

    /// Groups that have left the policy go, and make room for others.
    fn follow_groups<'k>(&mut self, rules: impl Iterator<Item = &'k Arc<RuleKey>>) {
        let rules: Vec<(&Arc<RuleKey>, GroupKey)> = rules.map(|key| (key, GroupKey::from(&**key))).collect();
        let in_force: BTreeSet<&GroupKey> = rules.iter().map(|(_, group)| group).collect();
        self.groups.retain(|group, _| in_force.contains(&**group));
        for group in in_force {
            if self.groups.len() >= MOST_GROUPS {
                break;
            }
            if !self.groups.contains_key(group) {
                self.groups.insert(Arc::new(group.clone()), 0);
            }
        }
        let place = |group: &GroupKey| self.groups.get_key_value(group).map(|(group, _)| Arc::clone(group));
        self.of_rules =
            rules.iter().filter_map(|(key, group)| Some((Arc::clone(key), place(group)?))).collect();
    }

    /// What metrics tell.
    pub fn summary(&self) -> HitsSummary {
        let written = || self.in_force.iter().filter(|(_, Stands(stands))| *stands).map(|(key, _)| key);
        let unused = |key: &&Arc<RuleKey>| self.counts.get(*key).is_none_or(|count| count.hits == 0);
        HitsSummary {
            rules: written().count() as u64,
            unused: written().filter(unused).count() as u64,
            unattributed: self.unattributed,
            groups: self.groups.iter().map(|(group, count)| (Arc::clone(group), *count)).collect(),
            others: self.others,
        }
    }

    /// The counts of a policy's rules.
    pub fn answer(&self, view: Option<&View>) -> RuleHitsAnswer {
        let now = seconds(SystemTime::now());
        let rules = view.map(|view| every(&view.model)).unwrap_or_default();
        let rules = rules.into_iter().map(|(direction, known)| {
            let new = Count { hits: 0, last_hit: None, since: now };
            let Count { hits, last_hit, since } = self.counts.get(&known.key).copied().unwrap_or(new);
            RuleHits {
                project: known.key.project.clone(),
                vpc: known.key.vpc.clone(),
                group: known.key.group.clone(),
                direction: direction.into(),
                rule: known.text.rule,
                text: known.text.text,
                file: known.text.file,
                line: known.text.line,
                hits,
                last_hit,
                since,
            }
        });
        RuleHitsAnswer { rules: rules.collect(), unattributed: self.unattributed }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "hits_tests.rs"]
mod tests;
