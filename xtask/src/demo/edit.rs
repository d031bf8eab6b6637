//! What the operator changes while the demo runs.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Removes the rules for SSH (`web-server`) and telemetry (`backend`), and gives `backend` an outbound list: what an absent one
/// means, and the metadata service.
pub fn remove_rules_and_open_metadata(policy: &str) -> Result<String> {
    let mut policy: Value = serde_json::from_str(policy)?;
    remove_inbound(&mut policy, "web-server", "22")?;
    remove_inbound(&mut policy, "backend", "5000")?;
    let backend = named(&mut policy, "security_groups", "backend")?;
    let outbound = json!([
        { "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" },
        { "protocol": "ALL", "destination": "::/0", "port": "ALL" },
        { "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }
    ]);
    backend.as_object_mut().context("a group is an object")?.insert("outbound".to_owned(), outbound);
    Ok(serde_json::to_string_pretty(&policy)?)
}

/// Attaches `default` to both interfaces.
pub fn add_default_group(policy: &str) -> Result<String> {
    let mut policy: Value = serde_json::from_str(policy)?;
    for device in ["tap0", "tap1"] {
        let groups = named(&mut policy, "interfaces", device)?.get_mut("security_groups");
        groups.and_then(Value::as_array_mut).context("an interface has groups")?.push(json!("default"));
    }
    Ok(serde_json::to_string_pretty(&policy)?)
}

fn remove_inbound(policy: &mut Value, group: &str, port: &str) -> Result<()> {
    let rules = named(policy, "security_groups", group)?.get_mut("inbound").and_then(Value::as_array_mut);
    let rules = rules.context("the group has inbound rules")?;
    let before = rules.len();
    rules.retain(|rule| rule.get("port").and_then(Value::as_str) != Some(port));
    ensure!(rules.len() < before, "{group} has no inbound rule for port {port}");
    Ok(())
}

/// The object of a list that has this name.
fn named<'a>(policy: &'a mut Value, list: &str, name: &str) -> Result<&'a mut Value> {
    policy
        .get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .find(|object| object.get("name").and_then(Value::as_str) == Some(name))
        .with_context(|| format!("the policy has no {name} among {list}"))
}
