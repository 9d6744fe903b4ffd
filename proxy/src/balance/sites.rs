//! Which share of the requests stays at the own site. Pure.
//!
//! As Envoy's priorities: while the healthy share of a site's instances, times the overprovision factor, is a whole, all
//! requests stay. Below it they leave gradually, as capacity is lost: with a factor of 1.4 and half of the instances
//! gone, 30 % go to the next sites. When none is left, all of them go at once.
//!
//! Lost are instances that the registry calls critical and those that are down by our dials. Ejected ones are not: what
//! requests showed moves no traffic between sites. Neither are instances in maintenance or drained, which an operator took
//! out on purpose.

/// All requests, in the unit of shares.
pub(crate) const WHOLE: u32 = 10_000;

/// The weights of a site's instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Of those that can be used.
    pub(crate) left: u64,
    /// Of those that are lost.
    pub(crate) lost: u64,
}

impl Capacity {
    /// The share of the requests meant for this site that it keeps, in [`WHOLE`].
    pub(crate) fn keeps(self, overprovision: u16) -> u32 {
        let all = u128::from(self.left) + u128::from(self.lost);
        if self.left == 0 {
            return 0;
        }
        let share = u128::from(self.left) * u128::from(overprovision) * u128::from(WHOLE) / (all * 100);
        u32::try_from(share).unwrap_or(WHOLE).min(WHOLE)
    }

    /// The share that the own site keeps, in [`WHOLE`], when at most `cross_site_max` percent may go elsewhere. The limit
    /// holds while it has an instance.
    pub(crate) fn keeps_at_home(self, overprovision: u16, cross_site_max: u8) -> u32 {
        match self.keeps(overprovision) {
            0 if self.left == 0 => 0,
            share => share.max(WHOLE - WHOLE / 100 * u32::from(cross_site_max.min(100))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(left: u64, lost: u64, cross_site_max: u8) -> u32 {
        Capacity { left, lost }.keeps_at_home(140, cross_site_max)
    }

    #[test]
    fn traffic_leaves_gradually_below_the_threshold_and_at_once_when_all_are_gone() {
        let cases =
            [(100, 0, WHOLE), (72, 28, WHOLE), (71, 29, 9_940), (50, 50, 7_000), (1, 9, 1_400), (0, 9, 0)];
        for (left, lost, expected) in cases {
            assert_eq!(keeps(left, lost, 100), expected, "{left} left, {lost} lost");
        }
    }

    #[test]
    fn the_share_that_leaves_is_limited_while_one_is_left() {
        assert_eq!((keeps(1, 9, 20), keeps(1, 9, 0), keeps(0, 9, 0)), (8_000, WHOLE, 0));
        assert_eq!(keeps(100, 0, 20), WHOLE);
    }

    #[test]
    fn any_weights_are_counted() {
        assert_eq!(keeps(u64::MAX, u64::MAX, 100), 7_000);
        assert_eq!(Capacity { left: 1, lost: 0 }.keeps(0), 0);
    }
}
