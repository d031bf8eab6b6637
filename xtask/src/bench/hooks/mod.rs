//! What packets of a guest cost the host without a filter, behind TC and behind XDP, on each kind of device: what `"hook": "auto"` is
//! chosen by.

mod frames;
mod relay;
mod site;
mod tcp;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use sg_tests::figures::{Figures, Spread};

use super::report::bars::NONE;
use frames::Size;
use site::{Device, Site};

const TC: &str = "sgd, TC";
const XDP: &str = "sgd, XDP";
/// Small packets behind each super-packet of a mix.
const SMALL: u32 = 8;
/// XDP is worth its restrictions if it takes no more than this part of what TC takes for small packets …
const CLEARLY_LESS: f64 = 0.95;
/// … and nowhere more than this.
const NOT_MUCH_MORE: f64 = 1.05;

#[derive(Debug, Args)]
pub struct Hooks {
    /// Fewer packets and rounds
    #[arg(long)]
    quick: bool,
}

impl Hooks {
    pub fn run(&self) -> Result<()> {
        if super::again_with_daemon(false)? {
            return Ok(());
        }
        one_cpu()?;
        let mut figures = Figures::open()?;
        let (rounds, parts) = if self.quick { (3, 4) } else { (21, 1) };
        let mut results = Vec::new();
        for device in Device::ALL {
            if !device.has_xdp() {
                println!("{}: its driver has no native XDP, so TC is all there is", device.text());
            }
            let found = packets(device, rounds, parts)?;
            tell("packet of a guest", "ns", device, &found, &mut figures)?;
            results.push((device, found));
        }
        for (device, found) in &mut results {
            let bulk = bulk(*device, rounds, 1000)?;
            tell("CPU per GB of a guest", "ms", *device, &bulk, &mut figures)?;
            found.extend(bulk);
        }
        println!();
        for (device, found) in &results {
            println!("{:<8} {}", device.text(), verdict(found));
        }
        Ok(())
    }
}

/// All threads from now on stay on one CPU: waking one on another costs more than a packet, in a virtual machine most of all, and
/// whether that happens is chance.
fn one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rev().find(|&cpu| all.is_set(cpu) == Ok(true)).context("a CPU")?;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(this, &one).context("sched_setaffinity")
}

/// One kind of packet by one filter, with each round's value.
#[derive(Debug, Clone)]
struct Found {
    packet: String,
    filter: &'static str,
    values: Vec<f64>,
}

/// The filters that a device can have.
fn filters(device: Device) -> Vec<(&'static str, Option<&'static str>)> {
    let mut filters = vec![(NONE, None), (TC, Some("tc"))];
    if device.has_xdp() {
        filters.push((XDP, Some("xdp")));
    }
    filters
}

/// In turn, round by round.
fn packets(device: Device, rounds: u32, parts: u32) -> Result<Vec<Found>> {
    let mut sites = Vec::new();
    for (filter, hook) in filters(device) {
        let site = Site::new(device, hook, true)?;
        site.check().with_context(|| format!("{}, {filter}", device.text()))?;
        sites.push((filter, site));
    }
    let mut found: Vec<Found> = Vec::new();
    let mut add = |packet: String, filter, value| match found
        .iter_mut()
        .find(|found| found.packet == packet && found.filter == filter)
    {
        Some(found) => found.values.push(value),
        None => found.push(Found { packet, filter, values: vec![value] }),
    };
    for _ in 0..rounds {
        for (_, site) in &sites {
            site.connect()?;
        }
        for (size, count) in [(Size::Small, 20_000), (Size::Full, 20_000), (Size::Super, 1000)] {
            for (allowed, word) in [(true, "allowed"), (false, "denied")] {
                for (filter, site) in &sites {
                    // Without a filter nothing is denied.
                    if allowed || *filter != NONE {
                        let value = site.packets(size, allowed, count / parts)?;
                        add(format!("{}, {word}", size.text()), *filter, value);
                    }
                }
            }
        }
        for (filter, site) in &sites {
            let value = site.mix(SMALL, 1000 / parts)?;
            add(format!("64 KB super-packet and {SMALL} of 60 bytes"), *filter, value);
        }
    }
    Ok(found)
}

/// The sites are made anew: here sockets receive.
fn bulk(device: Device, rounds: u32, blocks: u32) -> Result<Vec<Found>> {
    let mut sites = Vec::new();
    for (filter, hook) in filters(device) {
        let packet = "bulk TCP both ways, with questions".to_owned();
        sites.push((Site::new(device, hook, false)?, Found { packet, filter, values: Vec::new() }));
    }
    for _ in 0..rounds {
        for (site, found) in &mut sites {
            let value =
                tcp::bulk(site, blocks).with_context(|| format!("{}, {}", device.text(), found.filter))?;
            found.values.push(value);
        }
    }
    Ok(sites.into_iter().map(|(_, found)| found).collect())
}

fn tell(figure: &str, unit: &str, device: Device, all: &[Found], figures: &mut Figures) -> Result<()> {
    println!("\n{figure}: {}", device.text());
    for found in all {
        let over = by(all, &found.packet, TC)
            .filter(|_| found.filter == XDP)
            .map(|tc| format!("{:.2} × TC", ratio(found, tc)))
            .unwrap_or_default();
        let Found { packet, filter, values } = found;
        println!("{packet:<36} {filter:<10} {:<32} {unit:<7} {over}", Spread::of(values).to_string());
        let labels = json!({ "device": device.text(), "filter": filter, "packet": packet });
        figures.add(figure, unit, &labels, values)?;
    }
    Ok(())
}

fn by<'a>(all: &'a [Found], packet: &str, filter: &str) -> Option<&'a Found> {
    all.iter().find(|found| found.packet == packet && found.filter == filter)
}

/// The median of each round's.
fn ratio(over: &Found, under: &Found) -> f64 {
    let ratios: Vec<f64> = over.values.iter().zip(&under.values).map(|(over, under)| over / under).collect();
    Spread::of(&ratios).median
}

/// By which hook a kind of device is best filtered, and why: XDP, if it is clearly cheaper for small packets that pass and nowhere
/// much dearer.
fn verdict(all: &[Found]) -> String {
    let pairs: Vec<(&str, f64)> = all
        .iter()
        .filter(|found| found.filter == XDP)
        .filter_map(|xdp| Some((xdp.packet.as_str(), ratio(xdp, by(all, &xdp.packet, TC)?))))
        .collect();
    if pairs.is_empty() {
        return "TC: there is no other".to_owned();
    }
    let small = format!("{}, allowed", Size::Small.text());
    let worst = pairs.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    match worst {
        Some((packet, ratio)) if ratio > NOT_MUCH_MORE => {
            format!("TC: {packet} costs {ratio:.2} times as much by XDP")
        }
        _ => match pairs.iter().find(|(packet, _)| *packet == small) {
            Some((_, ratio)) if *ratio <= CLEARLY_LESS => {
                format!("XDP: {small} costs {ratio:.2} times as much as by TC, and nothing much more")
            }
            _ => format!("TC: XDP is not clearly cheaper for {small}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, TC, XDP, verdict};

    fn found(ratios: &[(&str, f64)]) -> Vec<Found> {
        let of = |&(packet, ratio): &(&str, f64)| {
            [(TC, 100.0), (XDP, 100.0 * ratio)].map(|(filter, value)| Found {
                packet: packet.to_owned(),
                filter,
                values: vec![value; 3],
            })
        };
        ratios.iter().flat_map(of).collect()
    }

    #[test]
    fn xdp_is_chosen_only_where_it_is_clearly_cheaper_and_nowhere_much_dearer() {
        let small = "60 bytes, allowed";
        let of = |small_ratio, bulk| verdict(&found(&[(small, small_ratio), ("bulk TCP", bulk)]));
        assert!(of(0.9, 1.0).starts_with("XDP: "));
        assert!(of(0.98, 1.0).starts_with("TC: "));
        assert_eq!(of(0.5, 1.5), "TC: bulk TCP costs 1.50 times as much by XDP");
        assert_eq!(verdict(&[]), "TC: there is no other");
    }
}
