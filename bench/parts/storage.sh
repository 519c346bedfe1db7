# shellcheck shell=bash
#
# storage: bytes per user with 20 traits and some 10 memberships.

copy_database storage base
sql -d storage -f "$BENCH/sql/storage.sql" >/dev/null
fill_database storage busy 85
columns storage "SELECT * FROM bench.storage()" | emit "as it stands" audience 1
check storage "$(verify_users 100)"
sql -d storage -c "VACUUM FULL audience.profiles"
columns storage "SELECT * FROM bench.storage()" | emit "after VACUUM FULL" audience 1
