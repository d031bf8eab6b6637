use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::edit::{Edit, EditedFile, RuleDirection, apply, apply_next};
use super::memo::Memo;
use super::read::Files;
use super::{LoadError, Loaded, Splice, load_bytes, loaded};

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

fn document(groups: usize, interfaces: usize, peers: usize, more: usize) -> Value {
    let name = |number: usize| format!("group-{number}");
    let rules = |number: usize| -> Vec<Value> {
        let rule = |rule| json!({ "protocol": "TCP", "source": "10.0.0.0/8", "port": 80 + rule });
        (0..(number + more) % 4)
            .map(rule)
            .chain([json!({ "protocol": "TCP", "source": "@group-0", "port": 22 })])
            .collect()
    };
    let groups: Vec<Value> = (0..groups)
        .map(|number| json!({ "name": name(number), "description": "규칙", "inbound": rules(number) }))
        .collect();
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

fn texts() -> impl Strategy<Value = String> {
    (1..5usize, 0..3usize, 0..6usize, 0..4usize, any::<bool>()).prop_map(
        |(groups, interfaces, peers, more, pretty)| {
            let document = document(groups, interfaces, peers, more);
            if pretty { serde_json::to_string_pretty(&document).unwrap() } else { document.to_string() }
        },
    )
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

    /// Of one of two files, other texts and single splices of a text, whole or broken, at any place.
    #[test]
    fn a_text_after_another_one_is_read_as_if_there_had_been_none(
        first in texts(),
        others in prop::collection::vec((texts(), any::<bool>(), any::<prop::sample::Index>(), 0..4usize, 0..PIECES.len()), 1..6),
    ) {
        let memo = Memo::default();
        let fixed = json!({ "version": 1, "project": "shop", "vpc": "other", "security_groups": [{ "name": "far" }] });
        let mut text = first;
        for (other, splice, at, gone, piece) in others {
            if splice {
                let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let start = at.index(bounds.len());
                let end = (start + gone).min(bounds.len() - 1);
                let spliced = [&text[..bounds[start]], PIECES[piece], &text[bounds[end]..]].concat();
                let texts = [spliced.clone(), fixed.to_string()];
                prop_assert_eq!(said(&next(&memo, &texts)), said(&anew(&texts)), "{}", spliced);
                if anew(&texts).is_ok() {
                    text = spliced;
                }
            } else {
                text = other;
                let texts = [text.clone(), fixed.to_string()];
                prop_assert_eq!(said(&next(&memo, &texts)), said(&anew(&texts)));
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
        raw.groups.items.iter().map(|item| address(std::sync::Arc::as_ptr(item).cast())).collect()
    };
    let peers = |raw: &super::raw::RawFile| {
        raw.peers.items.iter().map(|item| address(std::sync::Arc::as_ptr(item).cast())).collect()
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
            prop_assert!(std::sync::Arc::ptr_eq(&next.model, &edited.after), "it is known");
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
        "security_groups": [{ "name": "webs", "inbound": rules, "outbound": [] }, { "name": "apps", "inbound": rules }],
    });
    let memo = Memo::default();
    let before = text.to_string();
    next(&memo, std::slice::from_ref(&before)).unwrap();
    // Whoever has counted where a rule stands does not do so again; one that was walked again has it counted anew.
    let group =
        |at: usize| std::sync::Arc::clone(memo.known()[0].walked[0].raw.groups.items.get(at).unwrap());
    let old = group(0);
    for rule in old.inbound.as_ref().unwrap() {
        rule.at.set(7777, 1);
    }
    let other = group(1);
    let after = before.replacen(r#""port":50"#, r#""port":5050"#, 1);
    let loaded = next(&memo, std::slice::from_ref(&after)).unwrap();
    let counted = loaded.model.groups[0].inbound.clone();
    let super::model::Rules::Written(rules) = counted else { panic!() };
    assert_eq!(rules.iter().filter(|rule| rule.source.line != 7777).count(), 3);
    assert!(!std::sync::Arc::ptr_eq(&other, &group(1)), "it stands in another place");
}
