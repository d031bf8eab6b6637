//! The written rules of one direction of a group: policies that follow one another share those that stay, with what is known of
//! them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lint;
use super::model::{GroupId, Remote, Rule};

/// Rules in the order written. A clone is the same list in memory.
#[derive(Clone, Default)]
pub struct RuleList(Arc<Listed>);

#[derive(Default)]
struct Listed {
    rules: Vec<Rule>,
    about: OnceLock<About>,
}

/// What is known of a list as a whole.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// The groups that are remotes, each once.
    pub groups: Vec<GroupId>,
    /// The lowest and the highest address in a network that is a remote.
    v4: Option<(Ipv4Addr, Ipv4Addr)>,
    v6: Option<(Ipv6Addr, Ipv6Addr)>,
    /// Whether there is advice about a rule by itself, if they are inbound rules, and if they are outbound ones.
    advice: [bool; 2],
}

impl About {
    fn of(rules: &[Rule]) -> Self {
        let mut about = Self::default();
        for rule in rules {
            match rule.remote {
                Remote::Cidr(IpNet::V4(net)) => widen(&mut about.v4, (net.network(), net.broadcast())),
                Remote::Cidr(IpNet::V6(net)) => widen(&mut about.v6, (net.network(), net.broadcast())),
                Remote::Group(group) => about.groups.push(group),
            }
            for (advice, inbound) in about.advice.iter_mut().zip([true, false]) {
                *advice = *advice || lint::of_rule(rule, inbound).next().is_some();
            }
        }
        about.groups.sort_unstable_by_key(|group| group.0);
        about.groups.dedup();
        about
    }

    /// Whether one of their networks may have an address in common with this one. If not, none has.
    pub fn may_meet(&self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(net) => meets(self.v4, (net.network(), net.broadcast())),
            IpNet::V6(net) => meets(self.v6, (net.network(), net.broadcast())),
        }
    }

    /// The same for one address.
    pub fn may_have(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.may_meet(&Ipv4Net::from(address).into()),
            IpAddr::V6(address) => self.may_meet(&Ipv6Net::from(address).into()),
        }
    }

    pub fn has_advice(&self, inbound: bool) -> bool {
        let [of_inbound, of_outbound] = self.advice;
        if inbound { of_inbound } else { of_outbound }
    }
}

fn widen<A: Ord + Copy>(range: &mut Option<(A, A)>, (low, high): (A, A)) {
    *range = Some(range.map_or((low, high), |(lowest, highest)| (lowest.min(low), highest.max(high))));
}

fn meets<A: Ord>(range: Option<(A, A)>, (low, high): (A, A)) -> bool {
    range.is_some_and(|(lowest, highest)| lowest <= high && low <= highest)
}

impl RuleList {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Found out once.
    pub(crate) fn about(&self) -> &About {
        self.0.about.get_or_init(|| About::of(&self.0.rules))
    }
}

impl Deref for RuleList {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.0.rules
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> Self {
        Self(Arc::new(Listed { rules, about: OnceLock::new() }))
    }
}

impl<'r> IntoIterator for &'r RuleList {
    type Item = &'r Rule;
    type IntoIter = std::slice::Iter<'r, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for RuleList {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || **self == **other
    }
}

impl Eq for RuleList {}

impl fmt::Debug for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Match, Offset, Protocol};

    fn rule(remote: &str) -> Rule {
        let remote = Remote::Cidr(remote.parse().unwrap());
        let (protocol, matches) = (Protocol::Tcp, Match::Any);
        Rule { protocol, remote, matches, description: String::new(), at: Offset::default() }
    }

    #[test]
    fn a_list_that_cannot_meet_a_network_has_no_rule_on_it_or_around_it() {
        const NETS: [&str; 9] = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.0/24",
            "10.1.2.255/32",
            "10.1.3.0/32",
            "192.0.2.0/24",
            "::/0",
            "2001:db8::/32",
            "2001:db9::1/128",
        ];
        let mut apart = 0;
        for one in NETS {
            for other in NETS {
                let rules = RuleList::from(vec![rule(one), rule(other)]);
                for net in NETS {
                    let net: IpNet = net.parse().unwrap();
                    let is_near = |rule: &Rule| match rule.remote {
                        Remote::Cidr(own) => own.contains(&net) || net.contains(&own),
                        Remote::Group(_) => false,
                    };
                    let may_meet = rules.about().may_meet(&net);
                    assert!(may_meet || !rules.iter().any(is_near), "{one}, {other}: {net}");
                    apart += usize::from(!may_meet);
                    assert!(
                        rules.about().may_have(net.addr())
                            || !may_meet
                            || net.prefix_len() < net.max_prefix_len()
                    );
                }
            }
        }
        assert!(apart > 200, "{apart}");
    }
}
