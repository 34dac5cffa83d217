-- This script changes the table itself: what guards it is taken away for that, and put back at the end.
drop event trigger if exists {guard_alter};
drop event trigger if exists {guard_rewrite};
drop event trigger if exists {guard_drop};
