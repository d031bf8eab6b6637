//! The same tables, before which everything is judged and nothing changed: what `sgd_explain` is in the kernel (SPEC
//! section 8). A store is passed on like any other, so that one shows which should not have been made.

use sg_common::abi::{Account, Datagram, Flow, Interface, PairKey, Row};
use sg_common::account::Counted;
use sg_common::conntrack::{FlowRef, Insertion};
use sg_common::family::Aligned;
use sg_common::judge::{Environment, Moment, Scratch, Tables};
use sg_common::packet::ReadIp;
use sg_common::table::Taken;

use super::Host;

pub(super) struct Dry<'h>(pub(super) &'h Host);

impl Environment for Dry<'_> {
    const DRY_RUN: bool = true;

    fn moment(&self) -> Option<Moment> {
        self.0.moment()
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        self.0.interface(index)
    }

    fn pair(&self, key: &PairKey) -> Option<&Row> {
        self.0.pair(key)
    }

    fn port_table_contains(&self, index: u32, number: u16) -> bool {
        self.0.port_table_contains(index, number)
    }

    fn add_live(&self, row: u32, change: i64) -> u64 {
        self.0.add_live(row, change)
    }

    fn is_accounting(&self) -> bool {
        self.0.is_accounting()
    }

    fn accounts(&self, row: u32, change: u64) -> Option<(u64, u32)> {
        self.0.accounts(row, change)
    }

    fn count_unrecorded(&self, row: u32) {
        self.0.count_unrecorded(row);
    }
}

impl<F: ReadIp> Tables<F> for Dry<'_>
where
    Host: Tables<F>,
{
    fn scratch(&self) -> Option<&mut Scratch<F>> {
        self.0.scratch()
    }

    fn class(&self, key: &F::ClassKey) -> Option<&Row> {
        Tables::<F>::class(self.0, key)
    }

    fn member_set(&self, key: &F::MemberKey, parity: u32) -> u32 {
        Tables::<F>::member_set(self.0, key, parity)
    }

    fn owns(&self, key: &F::OwnKey) -> bool {
        Tables::<F>::owns(self.0, key)
    }

    fn flow(&self, key: &Aligned<F::FlowKey>) -> Option<FlowRef<'_>> {
        Tables::<F>::flow(self.0, key)
    }

    fn begin(&self, key: &Aligned<F::FlowKey>, flow: &Flow) -> Insertion {
        Tables::<F>::begin(self.0, key, flow)
    }

    fn make_live(&self, key: &Aligned<F::FlowKey>, row: u32) -> bool {
        Tables::<F>::make_live(self.0, key, row)
    }

    fn remove(&self, key: &Aligned<F::FlowKey>) -> Option<Taken> {
        Tables::<F>::remove(self.0, key)
    }

    fn next_half_open(&self, row: u32) -> u64 {
        Tables::<F>::next_half_open(self.0, row)
    }

    fn datagram(&self, key: &F::FragmentKey, to: &mut Datagram) -> bool {
        Tables::<F>::datagram(self.0, key, to)
    }

    fn datagram_place(&self, key: &F::FragmentKey) -> Option<u32> {
        Tables::<F>::datagram_place(self.0, key)
    }

    fn insert_datagram(&self, key: &F::FragmentKey, datagram: &Datagram) {
        Tables::<F>::insert_datagram(self.0, key, datagram);
    }

    fn update_datagram(&self, key: &F::FragmentKey, datagram: &Datagram) {
        Tables::<F>::update_datagram(self.0, key, datagram);
    }

    fn remove_datagram(&self, key: &F::FragmentKey) {
        Tables::<F>::remove_datagram(self.0, key);
    }

    fn next_datagram(&self, row: u32) -> u64 {
        Tables::<F>::next_datagram(self.0, row)
    }

    fn take_datagram_place(&self, place: u32, key: &F::FragmentKey, oldest: &mut F::FragmentKey) -> bool {
        Tables::<F>::take_datagram_place(self.0, place, key, oldest)
    }

    fn add_to_account(&self, key: &F::AccountKey, counted: &Counted) -> bool {
        Tables::<F>::add_to_account(self.0, key, counted)
    }

    fn open_account(&self, key: &F::AccountKey, account: &Account) -> Insertion {
        Tables::<F>::open_account(self.0, key, account)
    }
}
