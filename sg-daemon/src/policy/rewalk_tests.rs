use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::memo::Memo;
use super::read::Files;
use super::{LoadError, Loaded, load_bytes, loaded};

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
