#![forbid(unsafe_code)]
//! Owns the changing verbs where layers below an image know its checkpoints too: the steps are shown or carried out. Must never
//! know how they are found.

use crate::change::{say_if_too_late, warn_all};
use crate::exit::{Failure, Status};
use crate::output::print;
use crate::recover;
use crate::session::Session;
use crate::words::some_of;
use checkmap::Image;
use checkmap::chain::KnownModel;
use checkmap::image::{Access, Edit};
use std::path::Path;

/// Opens an image that stands on others. `None` where it stands alone, or cannot be opened: what changes one image says why.
pub(crate) fn open(session: &Session, path: &Path, dry_run: bool) -> Option<Image> {
    let access = if dry_run { Access::Read } else { Access::Write };
    let mut image = session.open(path, access).ok().filter(|image| image.backing_file().is_some())?;
    if !dry_run {
        // Where this fails, the change of the image alone says why.
        recover::mend(session, &mut image).ok()?;
    }
    Some(image)
}

/// Changes the image and the layers below it, or shows the steps; `None` where the image alone has to change. `done` tells of it
/// afterwards.
pub(crate) fn run(
    session: &Session,
    mut image: Image,
    edit: &Edit<'_>,
    model: Option<KnownModel>,
    dry_run: bool,
    done: &str,
) -> Result<Option<Status>, Failure> {
    if !image.spans_layers(edit, model)? {
        return Ok(None);
    }
    if dry_run {
        let change = image.rehearse_layers(edit, model, &mut session.watch())?;
        print(session, |out| {
            for (path, actions) in &change.layers {
                for action in actions {
                    writeln!(out, "{}: {action}", path.display())?;
                }
            }
            Ok(())
        })?;
        warn_all(session, &change.warnings);
        return Ok(Some(Status::Done));
    }
    session.interrupt().hold();
    let change = image.change_layers(edit, model, &mut session.watch())?;
    warn_all(session, &change.warnings);
    let steps = change.layers.iter().map(|(path, actions)| {
        format!("{}: {}", path.display(), some_of(actions.iter().map(ToString::to_string), "; "))
    });
    session.say(&format!("{done} ({})", some_of(steps, "; ")));
    say_if_too_late(session);
    Ok(Some(Status::Done))
}
