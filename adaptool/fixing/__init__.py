"""``validate --fix``: what is wrong with an adapter and has one faithful answer, corrected and proved."""
