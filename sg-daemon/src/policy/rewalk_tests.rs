use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::edit::{Edit, EditedFile, RuleDirection, apply, apply_next};
use super::memo::Memo;
use super::model::{Model, Rules};
use super::read::Files;
use super::{LoadError, Loaded, Splice, load_bytes, loaded};
use crate::compile::{compile, compile_next};
use crate::diff::diff;

fn next(memo: &Memo, texts: &[String]) -> Result<Loaded, LoadError> {
    let mut files = Files::after(memo);
    for (number, text) in texts.iter().enumerate() {
        files.decode(path(number), text.clone().into_bytes());
    }
    loaded(&files)
}

fn anew(texts: &[String]) -> Result<Loaded, LoadError> {
    load_bytes(texts.iter().enumerate().map(|(number, text)| (path(number), text.clone().into_bytes())))
}

fn path(number: usize) -> PathBuf {
    format!("{number}.json").into()
}

/// All of it: the model with every place, advice, faults.
fn said(outcome: &Result<Loaded, LoadError>) -> String {
    match outcome {
        Ok(loaded) => format!("{:#?}\n{:#?}\n{:#?}", loaded.model, loaded.lints, loaded.counts),
        Err(error) => format!("{error:#?}"),
    }
}

/// Line and column of every rule of the first file, by the model; a list's are in order.
fn placed(model: &Model) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    for group in &model.groups {
        for rules in [&group.inbound, &group.outbound] {
            let Rules::Written(rules) = rules else { continue };
            let sources = rules.iter().map(|rule| group.source_of(rule)).filter(|source| source.file.0 == 0);
            let places: Vec<_> = sources.map(|source| (source.line, source.column)).collect();
            assert!(places.is_sorted(), "{places:?}");
            all.extend(places);
        }
    }
    all.sort_unstable();
    all
}

/// The same by the text: where an object begins in a list in an object in a list of the whole.
fn written(text: &str) -> Vec<(u32, u32)> {
    let (mut line, mut column, mut brackets) = (1, 1, String::new());
    let (mut in_string, mut is_escaped) = (false, false);
    let mut all = Vec::new();
    for c in text.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => {
                brackets.push(c);
                if brackets == "{[{[{" {
                    all.push((line, column));
                }
            }
            '}' | ']' if !in_string => drop(brackets.pop()),
            _ => {}
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    all
}

#[test]
fn rules_are_found_in_a_text() {
    let text = "{\"security_groups\":[{\"name\":\"규{\\\"[칙\",\"inbound\":[{},\n {\"a\":[{}]}]}]}";
    assert_eq!(written(text), [(1, 49), (2, 2)]);
}

fn document(groups: usize, interfaces: usize, peers: usize, more: usize) -> Value {
    let name = |number: usize| format!("group-{number}");
    let rules = |number: usize| -> Vec<Value> {
        let rule = |rule| json!({ "protocol": "TCP", "description": "규칙 🦀", "source": "10.0.0.0/8", "port": 80 + rule });
        (0..(number + more) % 4)
            .map(rule)
            .chain([json!({ "protocol": "TCP", "source": "@group-0", "port": 22 })])
            .collect()
    };
    // Some of them with advice about a rule by itself.
    let outbound = |number: usize| match (number + more) % 3 {
        0 => {
            json!([{ "protocol": 58, "destination": "0.0.0.0/0" }, { "protocol": "TCP", "destination": "@group-0", "port": 9 }])
        }
        1 => json!([{ "protocol": "ALL", "destination": "0.0.0.0/0" }]),
        _ => json!([]),
    };
    let group = |number: usize| {
        let (inbound, outbound) = (rules(number), outbound(number));
        match number % 3 {
            0 => {
                json!({ "name": name(number), "description": "규칙", "inbound": inbound, "outbound": outbound })
            }
            1 => json!({ "outbound": outbound, "name": name(number), "inbound": inbound }),
            _ => json!({ "description": "규칙", "inbound": inbound, "name": name(number) }),
        }
    };
    let groups: Vec<Value> = (0..groups).map(group).collect();
    let interfaces: Vec<Value> = (0..interfaces)
        .map(|number| {
            json!({
                "name": format!("tap{number}"), "addresses": [format!("10.0.0.{}", number + 1)],
                "timeouts": { "udp": 20 + more }, "security_groups": ["group-0"],
            })
        })
        .collect();
    let peers: Vec<Value> = (0..peers)
        .map(|number| json!({ "address": format!("192.0.2.{}", number + more + 1), "security_groups": ["group-0"] }))
        .collect();
    json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": more.is_multiple_of(2), "settings": { "managed": ["tap*"] },
        "security_groups": groups, "interfaces": interfaces, "peers": peers,
    })
}

/// What a line of a text may end with.
const BREAKS: [&str; 5] = ["\n", " ", "", "\r\n\t", "\n\n  "];

fn texts() -> impl Strategy<Value = String> {
    let layout = prop_oneof![
        // All on one line, each on its own, and anything between: groups that begin on the line on which another one ends.
        Just(vec![2]),
        Just(vec![0]),
        prop::collection::vec(0..BREAKS.len(), 1..12),
    ];
    (1..5usize, 0..3usize, 0..6usize, 0..4usize, layout).prop_map(
        |(groups, interfaces, peers, more, layout)| {
            let document = document(groups, interfaces, peers, more);
            let pretty = serde_json::to_string_pretty(&document).unwrap();
            let breaks = layout.iter().cycle().map(|at| BREAKS[*at]);
            pretty.lines().zip(breaks).flat_map(|(line, end)| [line.trim_start(), end]).collect()
        },
    )
}

/// Another name in the place of one, so that rules are of a group that is not there: one of them, or each.
fn dangling(text: &str, at: prop::sample::Index, all: bool) -> String {
    if all {
        return text.replacen(r#""group-0""#, r#""group-that-is-new""#, 1);
    }
    let remotes: Vec<usize> = text.match_indices(r#""@group-0""#).map(|(at, _)| at).collect();
    let (before, rest) = text.split_at(remotes[at.index(remotes.len())]);
    [before, &rest.replacen("group-0", "gruppe", 1)].concat()
}

/// Pieces that keep a text whole, and such that break it.
const PIECES: [&str; 12] = [
    "",
    " ",
    "\n",
    "\n\n  ",
    ",",
    "{",
    "]",
    "\"",
    "7",
    "규칙",
    r#",{"address":"192.0.2.77","security_groups":["group-0"]}"#,
    r#"{"name":"group-x"},"#,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of one of two files, other texts and single splices of a text, whole or broken, at any place, and names that are none.
    #[test]
    fn a_text_after_another_one_is_read_as_if_there_had_been_none(
        first in texts(),
        bom in any::<bool>(),
        others in prop::collection::vec((texts(), 0..5usize, any::<prop::sample::Index>(), 0..4usize, 0..PIECES.len()), 1..8),
    ) {
        let bom = if bom { "\u{feff}" } else { "" };
        let memo = Memo::default();
        let fixed = json!({ "version": 1, "project": "shop", "vpc": "other", "security_groups": [{ "name": "far" }] });
        let mut text = first;
        for (other, kind, at, gone, piece) in others {
            let changed = match kind {
                0 => other,
                1 => dangling(&text, at, gone == 0),
                _ => {
                    let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                    let start = at.index(bounds.len());
                    let end = (start + gone).min(bounds.len() - 1);
                    [&text[..bounds[start]], PIECES[piece], &text[bounds[end]..]].concat()
                }
            };
            let texts = [[bom, &changed].concat(), fixed.to_string()];
            let (next, anew) = (next(&memo, &texts), anew(&texts));
            prop_assert_eq!(said(&next), said(&anew), "{}", changed);
            if let Ok(next) = next {
                prop_assert_eq!(placed(&next.model), written(&changed), "{}", changed);
                text = changed;
            }
        }
    }
}

#[test]
fn only_the_objects_around_a_change_are_walked_again() {
    let memo = Memo::default();
    let before = document(4, 2, 6, 0).to_string();
    let after = before.replacen(r#""address":"192.0.2.6""#, r#""address":"192.0.2.200""#, 1);
    next(&memo, std::slice::from_ref(&before)).unwrap();
    next(&memo, std::slice::from_ref(&after)).unwrap();
    let known = memo.known();
    let [new, old] = known.as_slice() else { panic!("two are kept") };
    let shared = |of: &dyn Fn(&super::raw::RawFile) -> Vec<usize>| {
        let [new, old] = [new, old].map(|known| of(&known.walked[0].raw));
        new.iter().zip(&old).filter(|(new, old)| new == old).count()
    };
    let address = |item: *const u8| item as usize;
    let groups = |raw: &super::raw::RawFile| {
        raw.groups.items.iter().map(|item| address(Arc::as_ptr(item).cast())).collect()
    };
    let peers = |raw: &super::raw::RawFile| {
        raw.peers.items.iter().map(|item| address(Arc::as_ptr(item).cast())).collect()
    };
    assert_eq!((shared(&groups), shared(&peers)), (4, 4), "the last peer, and the one before it, are new");
}

/// Edits of every kind, of what there is and of what there is not.
fn edits() -> impl Strategy<Value = Edit> {
    let (group, number) = (0..5usize, 0..8u32);
    let direction = prop_oneof![Just(RuleDirection::Inbound), Just(RuleDirection::Outbound)];
    (0..9usize, group.clone(), group, number, direction).prop_map(|(kind, one, other, number, direction)| {
        let [group, other] = [one, other].map(|number| format!("group-{number}"));
        let (project, vpc) = (Some("shop".to_owned()), Some("main".to_owned()));
        let remote = if number < 4 { format!("@{other}") } else { "10.0.0.0/8".to_owned() };
        let mut rule = json!({ "protocol": "TCP", "port": 79 + number });
        rule[direction.remote()] = json!(remote);
        let address = format!("192.0.2.{number}");
        match kind {
            0 => Edit::GroupCreate {
                name: group,
                description: None,
                inbound: None,
                outbound: None,
                project,
                vpc,
            },
            1 => Edit::GroupDelete { name: group, project, vpc },
            2 => Edit::GroupCopy { source: group, names: vec![other], rewrite_self: true, project, vpc },
            3 | 4 => Edit::RuleAdd { group, direction, rule, project, vpc },
            5 => Edit::RuleRemove {
                group,
                direction,
                index: Some(number as usize / 2),
                tag: None,
                rule: None,
                project,
                vpc,
            },
            6 => Edit::InterfaceAttach { interface: format!("tap{}", number % 3), group },
            7 => Edit::PeerAdd { address, groups: vec![group], project, vpc },
            _ => Edit::PeerRemove { address, groups: Vec::new(), project, vpc },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is known of the policy before goes into the one with the edit, time and again.
    #[test]
    fn a_policy_with_edits_is_as_if_its_files_had_been_read_with_them(
        first in texts(),
        bom in any::<bool>(),
        edits in prop::collection::vec(prop::collection::vec(edits(), 1..3), 1..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let paths = [0, 1].map(|number| directory.path().join(format!("{number}.json")));
        let [one, other] = &paths;
        let bom = if bom { "\u{feff}" } else { "" };
        fs::write(one, format!("{bom}{first}")).unwrap();
        fs::write(other, json!({ "version": 1, "project": "shop", "vpc": "other" }).to_string()).unwrap();
        let memo = Memo::default();
        for edits in edits {
            let files = paths.iter().map(|path| (path.clone(), fs::read(path).unwrap()));
            let files: Vec<_> = files.collect();
            let edited = apply_next(&paths, &edits, &memo);
            let wanted = apply(files.clone(), &edits);
            let (edited, wanted) = match (edited, wanted) {
                (Ok(edited), Ok(wanted)) => (edited, wanted),
                (edited, wanted) => {
                    prop_assert_eq!(edited.unwrap_err().to_string(), wanted.unwrap_err().to_string());
                    continue;
                }
            };
            prop_assert_eq!(&edited.done, &wanted.done);
            let after: Vec<_> = edited.files.iter().map(|(path, text)| (path.clone(), text.as_ref().to_vec())).collect();
            let read = load_bytes(after.clone()).unwrap();
            prop_assert_eq!(format!("{:#?}", edited.after), format!("{:#?}", read.model));
            let next = load_next_bytes(&memo, &after).unwrap();
            prop_assert!(Arc::ptr_eq(&next.model, &edited.after), "it is known");
            prop_assert_eq!(placed(&next.model), written(&next.texts[0]));
            // What is shared is told as if it were not, and as if nothing had the place among all that it had before.
            let old = load_bytes(files.iter().rev().cloned()).unwrap().model;
            prop_assert_eq!(diff(&edited.before, &next.model), diff(&old, &read.model));
            let image = compile_next(&next.model, (&edited.before, &compile(&edited.before)));
            prop_assert_eq!(image, compile(&read.model));
            prop_assert_eq!(said(&Ok(next)), said(&Ok(read)));
            for (file, (_, before)) in edited.files.iter().zip(&files) {
                let at = edited.changed.iter().find(|changed| changed.path == file.0);
                prop_assert_eq!(at.is_some(), file.1.as_ref() != before.as_slice());
                let Some(EditedFile { before: text, after, .. }) = at else { continue };
                prop_assert_eq!(text.as_ref(), before.as_slice());
                // As a spare file is brought from one to the other.
                let Splice { start, end, insert } = after.splice(text);
                prop_assert_eq!([&text[..start], &insert, &text[end..]].concat(), &**after);
                let mut again = text.as_ref().to_vec();
                let spare = tempfile::tempfile().unwrap();
                spare.write_all_at(&again, 0).unwrap();
                after.write_from(&spare, start).unwrap();
                spare.set_len(after.file_len() as u64).unwrap();
                again.resize(after.file_len(), 0);
                spare.read_exact_at(&mut again, 0).unwrap();
                prop_assert_eq!(again, after.as_ref());
            }
            for (path, bytes) in &after {
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

fn load_next_bytes(memo: &Memo, files: &[(PathBuf, Vec<u8>)]) -> Result<Loaded, LoadError> {
    let mut all = Files::after(memo);
    files.iter().for_each(|(path, bytes)| all.decode(path.clone(), bytes.clone()));
    loaded(&all)
}

#[test]
fn spec_d4_of_a_group_with_many_rules_only_those_around_a_change_are_walked_again() {
    let rule = |port: usize| json!({ "protocol": "TCP", "source": "10.0.0.0/8", "port": port });
    let rules: Vec<Value> = (1..=90).map(rule).collect();
    let text = json!({
        "version": 1, "project": "shop", "vpc": "main",
        "security_groups": [
            { "name": "webs", "outbound": [{ "protocol": "ALL", "destination": "0.0.0.0/0" }], "inbound": rules },
            { "name": "apps", "inbound": rules },
        ],
    });
    let memo = Memo::default();
    let before = text.to_string();
    next(&memo, std::slice::from_ref(&before)).unwrap();
    // Whoever has counted where a rule stands does not do so again; one that was walked again has it counted anew.
    let known = || Arc::clone(&memo.known()[0]);
    let group = |at: usize| Arc::clone(known().walked[0].raw.groups.items.get(at).unwrap());
    let old = [group(0), group(1)];
    old[0].inbound.iter().flat_map(|rules| rules.iter()).for_each(|rule| rule.at.set(7777, 1));
    let model = Arc::clone(&known().model);
    let after = before.replacen(r#""port":50"#, r#""port":5050"#, 1);
    let loaded = next(&memo, std::slice::from_ref(&after)).unwrap();
    let list = |model: &Model, group: usize, inbound: bool| {
        let group = &model.groups[group];
        match if inbound { &group.inbound } else { &group.outbound } {
            Rules::Written(rules) => rules.clone(),
            Rules::Implied => panic!(),
        }
    };
    let rules = list(&loaded.model, 0, true);
    assert_eq!(rules.iter().filter(|rule| rule.at.lines != 7777).count(), 3);
    // What the change is not in is in memory once, behind it too.
    let is_shared =
        |group, inbound| list(&model, group, inbound).is_same(&list(&loaded.model, group, inbound));
    assert_eq!([is_shared(0, true), is_shared(0, false), is_shared(1, true)], [false, true, true]);
    let new = [group(0), group(1)];
    let raw = |groups: &[Arc<super::raw::RawGroup>; 2]| {
        [&groups[0].outbound, &groups[1].inbound].map(|rules| Arc::as_ptr(rules.as_ref().unwrap()))
    };
    assert_eq!(raw(&old), raw(&new));
    assert!(!Arc::ptr_eq(&old[1], &new[1]), "it stands in another place");
    let place = |rule| {
        let source = loaded.model.groups[1].source_of(rule);
        (source.line, source.column)
    };
    let places: Vec<_> = list(&loaded.model, 1, true).iter().map(place).collect();
    assert_eq!(places, written(&after)[91..]);
}
