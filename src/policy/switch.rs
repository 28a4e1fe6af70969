//! A switch that a file turns on by being there, and that an operator's order goes before, either way.

/// What an operator has ordered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// Nothing: the file says it.
    Auto,
    On,
    Off,
}

impl Ordered {
    pub const ALL: [Ordered; 3] = [Ordered::On, Ordered::Off, Ordered::Auto];

    /// As orders name it.
    pub fn word(self) -> &'static str {
        match self {
            Ordered::Auto => "auto",
            Ordered::On => "on",
            Ordered::Off => "off",
        }
    }

    /// Whether it is on, where the file is there or not.
    pub fn decides(self, is_there: bool) -> bool {
        match self {
            Ordered::Auto => is_there,
            Ordered::On => true,
            Ordered::Off => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_goes_before_the_file() {
        for (ordered, is_there, is_on) in [
            (Ordered::Auto, false, false),
            (Ordered::Auto, true, true),
            (Ordered::On, false, true),
            (Ordered::Off, true, false),
        ] {
            assert_eq!(ordered.decides(is_there), is_on, "{ordered:?} {is_there}");
        }
    }
}
