#![forbid(unsafe_code)]
//! Owns the one look at the CPU: which instruction sets it has, and which of them the environment asks for. Must never
//! know the computations.

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The instructions that every CPU of the architecture has.
    Portable,
    /// x86-64 with AVX2, BMI1, BMI2, POPCNT and LZCNT.
    Avx2,
    /// x86-64 with AVX-512, its population counts, VBMI2 and VPCLMULQDQ.
    Avx512,
    /// aarch64 with NEON.
    Neon,
}

impl Level {
    /// All levels, whether this CPU has them or not.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Neon];

    /// The name that `CHECKMAP_KERNELS` knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this CPU, and the system on it, can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vpopcntdq")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("sse4.2")
                    && is_x86_feature_detected!("vpclmulqdq")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "which levels are left depends on the architecture")]
            _ => false,
        }
    }

    /// The level to use: the one that `CHECKMAP_KERNELS` names, if this CPU has it, else the best that is tried and tested.
    ///
    /// A name that is unknown or that this CPU does not have counts as none.
    pub fn select() -> Self {
        Self::named(std::env::var("CHECKMAP_KERNELS").ok().as_deref())
    }

    fn named(name: Option<&str>) -> Self {
        let available = |level: &Self| level.is_available();
        let named = Self::ALL.into_iter().find(|level| Some(level.name()) == name).filter(available);
        named.unwrap_or_else(|| {
            [Self::Avx512, Self::Avx2, Self::Neon].into_iter().find(available).unwrap_or(Self::Portable)
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_impossible_name_falls_back_to_detection() {
        let detected = Level::named(None);
        assert!(detected == Level::Avx512 || !Level::Avx512.is_available());
        assert_eq!(Level::named(Some("")), detected);
        assert_eq!(Level::named(Some("mmx")), detected);
        for level in Level::ALL {
            let expected = if level.is_available() { level } else { detected };
            assert_eq!(Level::named(Some(level.name())), expected);
        }
    }
}
