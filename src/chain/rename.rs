#![forbid(unsafe_code)]
//! Owns the renaming of a checkpoint: its own bitmap and that of its child carry the name. Knows nothing of the image.

use super::plan::{Action, Plan};
use super::{Chain, Model, Name, check_checkpoint_name};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;

impl Chain {
    /// Plans a new name for a checkpoint; the bitmaps keep their content and flags, also inconsistent ones.
    pub fn plan_rename(&self, checkpoint: &[u8], new_name: &[u8]) -> Result<Plan> {
        let at = self.position(checkpoint)?;
        let to = check_checkpoint_name(new_name)?;
        if self.checkpoint(new_name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("a checkpoint named {to} exists already"))
                .advise("choose another name"));
        }
        self.refuse_name_of_gap(&to)?;
        self.refuse_name_of_bitmap(&to)?;
        self.refuse_name_of_interval(&to)?;
        let Some(own) = self.checkpoints.get(at) else { return Ok(Plan::default()) };
        let follows = own.parent.as_ref().or_else(|| self.missing_before(at));
        let mut plan = Plan::of(vec![Action::Rename { from: own.bitmap.clone(), to: Name::chained(follows, &to) }]);
        plan.takes_part = vec![own.name.clone()];
        if let (_, Some(child)) = self.neighbours(at) {
            let name = Name::chained(Some(&to), &child.name);
            plan.actions.push(Action::Rename { from: child.bitmap.clone(), to: name });
        }
        plan.warnings.extend(to.warning());
        if self.model == Model::Cumulative {
            plan.warn(format!(
                "if libvirt made this checkpoint, libvirt goes on looking for a bitmap named {}",
                own.name
            ));
        }
        let expected = self.names().map(|name| if *name == own.name { to.clone() } else { name.clone() });
        let expected = memory::gather(expected)?;
        self.finish(plan, self.model, &expected)
    }
}
