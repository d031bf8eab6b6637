//! The thread that reads the rings.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::TryLockError;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sg_common::abi::{Direction, EVENT_READ, Event, NEW_FLOW_WATCHER};
use sg_common::verdict::Reason;
use tokio::sync::mpsc::error::TrySendError;

use super::decode::{Clocks, Told, read, verdict};
use super::filter::Filter;
use super::rules::RulesOf;
use super::{Events, Lost, Message, Place};
use crate::enforce::View;
use crate::kernel::EventMaps;
use crate::metrics::tally::TALLY;

/// How often new flows are looked for, and losses.
const TICK: Duration = Duration::from_millis(100);
/// How often the counts of rules are written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// Of the time, this part at most is spent on the rules of policies that follow each other: their rules are counted from then on, and
/// listing ten thousand takes longer than an edit.
const AT_MOST: u32 = 10;
/// So many events at once, then the rest of the work.
const AT_ONCE: usize = 1024;

pub struct Reader {
    events: Events,
    maps: EventMaps,
    rules: RulesOf,
    clocks: Clocks,
    /// Whose devices are followed.
    view: Option<Arc<View>>,
    /// Whose rules are.
    counted: Option<Arc<View>>,
    /// Not before then are other rules looked at.
    rests_until: Instant,
}

impl Reader {
    pub fn new(events: Events, maps: EventMaps) -> Self {
        Self {
            events,
            maps,
            rules: RulesOf::default(),
            clocks: Clocks::now(),
            view: None,
            counted: None,
            rests_until: Instant::now(),
        }
    }

    /// Until the daemon ends.
    pub fn run(mut self) {
        let (mut ticked, mut saved) = (Instant::now(), Instant::now());
        loop {
            self.wait();
            self.clocks = Clocks::now();
            for _ in 0..AT_ONCE {
                let Some(event) = self.maps.events.read() else { break };
                self.pass_on(event);
            }
            if ticked.elapsed() < TICK {
                continue;
            }
            ticked = Instant::now();
            let ends = self.events.ends();
            self.count_new_flows();
            self.tell_losses();
            self.follow_devices();
            if ends || Instant::now() >= self.rests_until {
                self.follow_rules();
            }
            if ends || saved.elapsed() >= SAVE_EVERY {
                saved = Instant::now();
                self.events.hits().save();
            }
            if ends {
                return;
            }
        }
    }

    /// Until there is an event for somebody, or it is time to look around.
    fn wait(&self) {
        let mut fds = [PollFd::new(self.maps.events.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        if poll(&mut fds, timeout).is_err() {
            // A signal; or the kernel has no memory, and then there is no hurry.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn told(&mut self, event: Event) -> Option<Told> {
        let reason = Reason::from_number(event.reason.into())?;
        let direction = if event.direction == 0 { Direction::Inbound } else { Direction::Outbound };
        let packet = read(&event, direction);
        let view = self.events.views().at(event.generation);
        let mut rules = Vec::new();
        if let Some(view) = view.as_ref().filter(|_| matches!(reason, Reason::NewFlow | Reason::RuleOnly)) {
            let known = self.rules.allowing(view, event.ifindex, direction, &packet);
            rules = known.into_iter().map(|known| known.text.clone()).collect();
        }
        Some(Told {
            time: self.clocks.wall(event.time),
            interface: view.and_then(|view| view.devices.get(&event.ifindex).cloned()),
            direction,
            verdict: verdict(&event, reason),
            reason,
            packet,
            rules,
            event,
        })
    }

    /// Gives an event to those whom the kernel names, if it fits what the kernel did not know.
    fn pass_on(&mut self, event: Event) {
        let Some(told) = self.told(event) else { return };
        let told = Arc::new(told);
        let mut places = self.events.places();
        for (number, place) in
            places.iter_mut().enumerate().filter_map(|(n, place)| Some((n, place.as_mut()?)))
        {
            if event.watchers >> number & 1 == 1 && place.wants(&told) {
                place.send(Message::Told(Arc::clone(&told)));
            }
        }
    }

    fn count_new_flows(&mut self) {
        let lost = self.maps.counts.of(NEW_FLOW_WATCHER).map_or(0, |counts| counts.limited + counts.full);
        let mut counted = 0;
        while let Some(event) = self.maps.new_flows.read() {
            let time = self.clocks.wall(event.time);
            let direction = if event.direction == 0 { Direction::Inbound } else { Direction::Outbound };
            let packet = read(&event, direction);
            let allowing = match self.events.views().at(event.generation) {
                Some(view) => self.rules.allowing(&view, event.ifindex, direction, &packet),
                None => Vec::new(),
            };
            self.events.hits().count(allowing.into_iter().map(|known| &known.key), time);
            counted += 1;
            // The ring may fill as fast as it is read.
            if counted == 4 * AT_ONCE {
                break;
            }
        }
        self.events.hits().lost_so_far(lost);
    }

    fn tell_losses(&mut self) {
        let mut places = self.events.places();
        for (number, place) in places.iter_mut().enumerate().skip(1) {
            let Some(place) = place else { continue };
            if let Ok(now) = self.maps.counts.of(number as u32) {
                let limited = now.limited.saturating_sub(place.counted.limited);
                let full = now.full.saturating_sub(place.counted.full);
                TALLY.lost(Lost { limited, full, slow: 0 });
                place.lost.limited += limited;
                place.lost.full += full;
                place.counted = Lost { limited: now.limited, full: now.full, slow: 0 };
            }
            place.tell_losses();
        }
    }

    /// An interface may have another device by now.
    fn follow_devices(&mut self) {
        let Some(view) = self.events.views().newest() else { return };
        if self.view.as_ref().is_some_and(|known| Arc::ptr_eq(known, &view)) {
            return;
        }
        // Not while a policy is put in force: events are read meanwhile.
        let mut enforcer = match self.events.0.enforcer.try_lock() {
            Ok(enforcer) => enforcer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for (number, place) in self.events.places().iter_mut().enumerate() {
            let Some(place) = place else { continue };
            let ifindex = place.filter.ifindex_now(&view);
            if place.watcher.ifindex != ifindex {
                place.watcher.ifindex = ifindex;
                enforcer.kernel().watch_device(number as u32, ifindex);
            }
        }
        drop(enforcer);
        self.view = Some(view);
    }

    /// A policy may have other rules than the one before it.
    fn follow_rules(&mut self) {
        let Some(view) = self.events.views().newest() else { return };
        if self.counted.as_ref().is_some_and(|known| Arc::ptr_eq(known, &view)) {
            return;
        }
        let began = Instant::now();
        let before = self.counted.as_ref().map(|view| &*view.model);
        self.events.hits().follow(&view.model, before);
        self.counted = Some(view);
        self.rests_until = Instant::now() + began.elapsed() * (AT_MOST - 1);
    }
}

impl Place {
    /// What the kernel could not ask: about rules, and about packets that it has not read.
    fn wants(&self, told: &Told) -> bool {
        let read = told.event.flags & EVENT_READ != 0 || fits(&self.filter, told);
        let by_rule = self.filter.rule.as_ref().is_none_or(|wanted| {
            told.rules.iter().any(|rule| {
                rule.group.as_ref() == Some(&wanted.group)
                    && wanted.rule.as_ref().is_none_or(|wanted| *wanted == rule.rule)
            })
        });
        read && by_rule
    }

    fn send(&mut self, message: Message) {
        self.tell_losses();
        let waits = self.lost != Lost::default();
        if waits || matches!(self.sender.try_send(message), Err(TrySendError::Full(_))) {
            self.lost.slow += 1;
            TALLY.lost(Lost { slow: 1, ..Lost::default() });
        }
    }

    fn tell_losses(&mut self) {
        if self.lost != Lost::default() && self.sender.try_send(Message::Lost(self.lost)).is_ok() {
            self.lost = Lost::default();
        }
    }
}

/// The part of a filter that is about a packet's sides.
fn fits(filter: &Filter, told: &Told) -> bool {
    let (local, remote) = told.packet.local_and_remote(told.direction);
    filter.protocol.is_none_or(|wanted| told.packet.protocol == Some(wanted))
        && filter.port.is_none_or(|wanted| told.packet.ports.is_some_and(|(a, b)| a == wanted || b == wanted))
        && filter.remote.is_none_or(|net| remote.is_some_and(|remote| net.contains(&remote)))
        && filter.local.is_none_or(|net| local.is_some_and(|local| net.contains(&local)))
}
