//! Group names: clouds take what the policy format does not.

use std::collections::{HashMap, HashSet};

use crate::policy::values::{DEFAULT_GROUP, GROUP_NAME_CHARS, group_name};

/// A name of our format for each of a VPC's groups, given as (id, name). A name that is good already is kept; of several
/// groups with one name the first keeps it, the others get the end of their id.
pub(super) fn assign<'g>(groups: &[(&'g str, &'g str)]) -> HashMap<&'g str, String> {
    let mut names = HashMap::new();
    let mut taken = HashSet::new();
    let good = |name: &str| name == DEFAULT_GROUP || group_name(name).is_ok();
    for (id, name) in groups.iter().filter(|(_, name)| good(name)) {
        if taken.insert((*name).to_owned()) {
            names.insert(*id, (*name).to_owned());
        }
    }
    for (id, name) in groups {
        if names.contains_key(id) {
            continue;
        }
        let base = mapped(name, id);
        let mut chosen = base.clone();
        let mut number = 1;
        while chosen == DEFAULT_GROUP || taken.contains(&chosen) {
            chosen = match number {
                1 => with_suffix(&base, &tail(id)),
                number => with_suffix(&base, &format!("{}-{number}", tail(id))),
            };
            number += 1;
        }
        taken.insert(chosen.clone());
        names.insert(id, chosen);
    }
    names
}

/// Every run of characters that cannot stand in a name is a hyphen.
fn mapped(name: &str, id: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_matches(['-', '_']);
    if out.is_empty() {
        return with_suffix("group", &tail(id));
    }
    if out.len() < *GROUP_NAME_CHARS.start() { with_suffix(out, "sg") } else { with_suffix(out, "") }
}

/// Cut so that both fit.
fn with_suffix(base: &str, suffix: &str) -> String {
    let room = GROUP_NAME_CHARS.end().saturating_sub(suffix.len() + 1);
    let base: String = base.chars().take(room).collect();
    let base = base.trim_end_matches(['-', '_']);
    if suffix.is_empty() { base.to_owned() } else { format!("{base}-{suffix}") }
}

/// The last eight letters and digits of an id.
fn tail(id: &str) -> String {
    let plain: Vec<char> = id.chars().filter(char::is_ascii_alphanumeric).collect();
    let tail: String = plain.iter().skip(plain.len().saturating_sub(8)).collect();
    if tail.is_empty() { "0".to_owned() } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(groups: &[(&str, &str)]) -> Vec<String> {
        let names = assign(groups);
        groups.iter().map(|(id, _)| names[id].clone()).collect()
    }

    #[test]
    fn good_names_stay_and_others_become_good() {
        let groups = [
            ("sg-1", "web-server"),
            ("sg-2", "default"),
            ("sg-3", "launch wizard (1)"),
            ("sg-0123456789abcdef0", "웹서버"),
            ("sg-5", "db"),
            ("sg-6", "_under_"),
        ];
        assert_eq!(
            assigned(&groups),
            ["web-server", "default", "launch-wizard-1", "group-9abcdef0", "db-sg", "under"]
        );
        for name in assigned(&groups).iter().filter(|name| *name != "default") {
            assert!(group_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_taken_gets_the_end_of_the_id() {
        let groups = [("sg-aaaa1111", "web tier"), ("sg-bbbb2222", "web-tier"), ("sg-cccc3333", "web-tier")];
        assert_eq!(assigned(&groups), ["web-tier-aaaa1111", "web-tier", "web-tier-cccc3333"]);
        // Twice the same id's end.
        let groups = [("a-12345678", "web tier"), ("b-12345678", "web/tier"), ("c", "web-tier")];
        assert_eq!(assigned(&groups), ["web-tier-12345678", "web-tier-12345678-2", "web-tier"]);
    }

    #[test]
    fn long_names_are_cut_to_what_fits() {
        let long = format!("{} end", "x".repeat(255));
        let groups = [("sg-11112222", long.as_str()), ("sg-33334444", long.as_str())];
        for name in assigned(&groups) {
            assert!(group_name(&name).is_ok() && name.len() <= 250, "{}", name.len());
        }
    }
}
