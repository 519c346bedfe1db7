# Messages in: bad ones become dead letters, just as they came, and the good
# ones beside them are stored; trouble that is not theirs is waited out; too
# many bad ones, or offsets that do not fit any more, stop the source; nothing
# is stored twice, whatever is read twice.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $kafka = start_kafka();
my $node = start_node('in', conf => worker_conf() . "audience.definition_wait = '300ms'\n");

# Runs SQL; what it prints.
sub sql { return $node->safe_psql('postgres', $_[0]); }

sub wait_sql
{
	my ($name, $query, $is, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($node, $name, $query, is => $is, within => 30, %option);
}

# An event's message.
sub event
{
	my ($user, $id, $more) = @_;
	return qq({"userId":"$user","eventId":"$id","eventType":"view") . ($more ? ",$more" : '') . '}';
}

# SQL: how far a source is, all its partitions together.
sub place_sql { return "SELECT sum(o.next_offset) FROM audience.kafka_offsets o JOIN audience.kafka_sources s ON s.number = o.source WHERE s.id = '$_[0]'"; }

# Waits until a source is so far.
sub wait_place
{
	my ($source, $place, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($name, place_sql($source), $place);
}

# Makes a topic and a source, which is paused, so that what is produced next is
# read at once.
sub make_source
{
	my ($topic, %option) = @_;
	my $options = $option{options} // '{}';
	$kafka->create_topic($topic, $option{partitions} // 1, %{ $option{config} // {} });
	sql("SELECT audience.kafka_source_create('$topic', '" . ($option{stream} // 'events') . "', options => '$options'); SELECT audience.kafka_source_pause('$topic')");
	return;
}

# Says which broker it is.
sub set_cluster { return sql("SELECT audience.kafka_cluster_set('main', jsonb_build_object('bootstrap.servers', '" . $_[0]->bootstrap . "'))"); }

sub pause { sql("SELECT audience.kafka_source_pause('$_[0]')"); return; }
sub resume { sql("SELECT audience.kafka_source_resume('$_[0]')"); return; }

# Dead letters of a topic, a line each.
sub letters
{
	my ($topic, $columns) = @_;
	return sql("SELECT " . ($columns // 'partition, "offset", sqlstate') . " FROM audience.kafka_dead_letters WHERE topic = '$topic' ORDER BY partition, \"offset\"");
}

# Ids of a user's events, in order.
sub events { return sql("SELECT string_agg(event_id, ' ' ORDER BY event_id COLLATE \"C\") FROM audience.events WHERE user_id = '$_[0]'"); }

sub count { return sql("SELECT count(*) FROM audience.events WHERE user_id LIKE '$_[0]'"); }

# A column of stat_kafka_source, of partition 0.
sub stat_sql { return "SELECT $_[1] FROM audience.stat_kafka_source WHERE source = '$_[0]' AND coalesce(partition, 0) = " . ($_[2] // 0); }

set_cluster($kafka);
sql("SELECT audience.segment_create('viewers', 'count(view) >= 2')");

#
# a bad one at the first, a middle and the last place of a batch
#
make_source('places');
my $next = 0;
foreach my $bad (0, 4, 9)
{
	pause('places');
	$kafka->produce('places', map { { key => 'k', value => $_ == $bad ? 'poison' : event('places', "$bad-$_") } } 0 .. 9);
	resume('places');
	wait_place('places', $next + 10, "a bad one at place $bad: the offset moves behind the batch");
	is(sql("SELECT count(*) FROM audience.events WHERE event_id LIKE '$bad-%'"), 9, 'the others are stored');
	$next += 10;
}
is(letters('places'), "0|0|22P02\n0|14|22P02\n0|29|22P02", 'it is a dead letter');

# nothing else: 199 are too few to say that too many are bad
make_source('rubbish');
$kafka->produce('rubbish', map { { value => "rubbish $_" } } 0 .. 198);
resume('rubbish');
wait_place('rubbish', 199, 'nothing but bad ones: the offset moves');
is(sql("SELECT count(*), count(DISTINCT value), min(\"offset\"), max(\"offset\"), min(sqlstate) FROM audience.kafka_dead_letters WHERE topic = 'rubbish'"), '199|199|0|198|22P02', 'all are dead letters');
wait_sql('and the source still runs', stat_sql('rubbish', 'state, dead_letters, messages, lag'), 'running|199|199|0');

#
# every kind of bad, and of strange
#
my $moment = 1_760_000_000_123;
my $deep = ('[' x 100_000) . (']' x 100_000);
my $large = event('large', 'l1', '"properties":{"x":"' . ('y' x 20_000_000) . '"}');
my $bytes = join '', map { chr } 0 .. 255;
my $future = int(time() + 7 * 86400) * 1000;
# name, message, SQLSTATE if it is bad
my @kinds = (
	[ 'invalid UTF-8', { value => event('a', "a\xff\xfe") }, '22P02|22021' ],
	[ 'overlong UTF-8', { value => event('a', "\xc0\xaf") }, '22P02|22021' ],
	[ 'a null character', { value => event('a', '1', '"x":"a\u0000b"') }, '22P02|22P05' ],
	[ 'a byte 0', { value => event('a', '2') . "\0" }, '22P02|22021' ],
	[ 'half a surrogate pair', { value => event('a', '3', '"x":"\ud800"') }, '22P02' ],
	[ 'a number too large for a double', { value => event('good', '1e400', '"properties":{"n":1e400}') } ],
	[ 'nesting', { value => event('a', '4', qq("properties":{"x":$deep})) }, '54001' ],
	[ 'too large', { value => $large }, '54000' ],
	[ 'empty', { value => '' }, '22P02' ],
	[ 'null', { key => 'k' }, '22023' ],
	[ 'an array', { value => '[' . event('a', '5') . ']' }, '22023' ],
	[ 'a string', { value => '"x"' }, '22023' ],
	[ 'JSON null', { value => 'null' }, '22023' ],
	[ 'no object: properties', { value => event('a', '6', '"properties":[]') }, '22023' ],
	[ 'no object: context', { value => event('a', '6', '"context":"x"') }, '22023' ],
	[ 'userId of a wrong type', { value => '{"userId":true,"eventType":"view"}' }, '22023' ],
	[ 'userId of a fraction', { value => '{"userId":1.5,"eventType":"view"}' }, '22023' ],
	[ 'userId too long', { value => event('u' x 256, '7') }, '22023' ],
	[ 'no userId', { value => '{"eventType":"view"}' }, '22023' ],
	[ 'no eventType', { value => '{"userId":"a"}' }, '22023' ],
	[ 'eventType of a wrong type', { value => '{"userId":"a","eventType":1}' }, '22023' ],
	[ 'timestamp of a wrong type', { value => event('a', '8', '"timestamp":true') }, '22023' ],
	[ 'timestamp that is none', { value => event('a', '8', '"timestamp":"yesterday"') }, '22023' ],
	[ 'timestamp out of reach', { value => event('a', '8', '"timestamp":1e300') }, '22023' ],
	[ 'far future', { value => event('a', '9', '"timestamp":' . $future) }, '22008' ],
	[ 'the message of the far future', { value => '{"userId":"a","eventType":"view"}', timestamp => $future }, '22008' ],
	[ 'garbage behind', { value => event('a', '10') . ' x' }, '22P02' ],
	[ 'unknown fields', { value => event('good', 'unknown', '"more":{"x":[1,2]},"":0') } ],
	[ 'the same key twice', { value => event('good', 'first', '"eventId":"twice"') } ],
	[ 'an integer user', { value => '{"userId":4711,"eventId":"int","eventType":"view"}' } ],
	[ 'a time as text', { value => event('good', 'text', '"timestamp":"2025-10-09T08:53:20.5+02:00"') } ],
	[ 'a time in milliseconds', { value => event('good', 'ms', "\"timestamp\":$moment") } ],
	[ 'no time', { value => event('good', 'none'), timestamp => $moment } ],
	[ 'neither time nor id', { value => '{"userId":"good","eventType":"view"}', timestamp => $moment } ],
	[ 'a binary key', { key => $bytes, value => event('good', 'key') } ],
	[ 'an empty key', { key => '', value => event('good', 'empty') } ],
	[ 'an event again', { value => event('good', 'ms', "\"timestamp\":$moment") } ],
	[
		'headers', {
			key => $bytes, value => "bad $bytes", timestamp => $moment,
			headers => [ [ a => '1' ], [ a => "2\x{c3}\x{a4}" ], [ none => undef ], [ empty => '' ], [ bytes => "\0\xff" ], [ "quo\"te" => "\"\n" ] ]
		}, '22P02' ],
	[ 'the last', { value => event('good', 'last') } ]);
make_source('kinds', partitions => 2, options => '{"max_bad":1}', config => { 'max.message.bytes' => 33554432 });
my @where = $kafka->produce('kinds', map { +{ partition => 1, %{ $_->[1] } } } @kinds);
is(scalar(@where), scalar(@kinds), 'all kinds are in the topic');
my $before = time();
resume('kinds');
wait_place('kinds', scalar(@kinds), 'every kind: the offset moves behind all');
note sprintf('took %.1f s', time() - $before);
for my $i (0 .. $#kinds)
{
	my ($name, $message, $state) = @{ $kinds[$i] };
	my ($row) = sql("SELECT sqlstate, encode(sha256(coalesce(key, 'NULL')), 'hex'), encode(sha256(coalesce(value, 'NULL')), 'hex'), key IS NULL, value IS NULL, attempts, source, stream, cluster,"
		  . " round(extract(epoch FROM message_at) * 1000) FROM audience.kafka_dead_letters WHERE topic = 'kinds' AND partition = 1 AND \"offset\" = $i");
	if (!defined $state)
	{
		is($row, '', "$name: taken");
		next;
	}
	my @got = split /\|/, $row;
	like($got[0] // 'none', qr/^($state)$/, "$name: a dead letter");
	require Digest::SHA;
	is_deeply(
		[ @got[ 1 .. 8 ] ],
		[
			Digest::SHA::sha256_hex($message->{key} // 'NULL'), Digest::SHA::sha256_hex($message->{value} // 'NULL'),
			defined $message->{key} ? 'f' : 't', defined $message->{value} ? 'f' : 't', 1, 'kinds', 'events', 'main' ],
		"$name: as it came");
	is($got[9], sprintf('%.0f', $message->{timestamp}), "$name: with its time") if $message->{timestamp};
}
is( sql("SELECT headers FROM audience.kafka_dead_letters WHERE topic = 'kinds' AND headers IS NOT NULL"),
	'[{"name": "a", "value": "1"}, {"name": "a", "value": "2ä"}, {"name": "none", "value": null}, {"name": "empty", "value": ""}, {"name": "bytes", "bytes": "00ff"}, {"name": "quo\"te", "value": "\"\n"}]',
	'headers: twice the same, null, empty, binary, in their order');
my ($nameless) = grep { $kinds[$_][0] eq 'neither time nor id' } 0 .. $#kinds;
is(events('good'), join(' ', sort qw(1e400 unknown twice text ms none key empty last), "kinds/1/$nameless"), 'the good ones are stored');
is(events('4711'), 'int', 'that of an integer user as well');
is(sql(qq(SELECT DISTINCT round(extract(epoch FROM occurred_at) * 1000) FROM audience.events WHERE event_id IN ('ms', 'none', 'kinds/1/$nameless'))), $moment, "without a time it is the message's");
is(sql(q(SELECT audience.timestamp_text(occurred_at) FROM audience.events WHERE event_id = 'text')), '2025-10-09T06:53:20.5Z', 'times');
is(sql(q(SELECT properties->'n' = to_jsonb(1e400) FROM audience.events WHERE event_id = '1e400')), 't', 'numbers');
is(sql("SELECT string_agg(segment_id, ' ') FROM audience.user_segments('good')"), 'viewers', 'and users have been evaluated');
is(sql(stat_sql('kinds', 'duplicates, messages', 1)), '1|' . @kinds, 'a duplicate is counted');

# duplicates across batches, and what was read before
$kafka->produce('kinds', map { { partition => 1, value => event('good', 'ms', "\"timestamp\":$moment") } } 1 .. 3);
wait_place('kinds', @kinds + 3, 'duplicates of another batch');
is(sql(stat_sql('kinds', 'duplicates', 1)), 4, 'are counted');
my $stored = count('%');
my $dead = letters('kinds');
foreach my $seek ("'0', 1", "'earliest'", "'2020-01-01'", "'5', 1")
{
	sql("SELECT audience.kafka_source_seek('kinds', $seek)");
	wait_place('kinds', @kinds + 3, "seek to $seek: read again");
	is(count('%'), $stored, 'no event is stored twice');
	is(letters('kinds'), $dead, 'and no dead letter');
}
is(sql("SELECT DISTINCT attempts FROM audience.kafka_dead_letters WHERE topic = 'kinds' AND \"offset\" > 4"), '5', 'which says how often it was tried');
sql("SELECT audience.kafka_source_seek('kinds', 'latest')");
wait_place('kinds', @kinds + 3, 'seek to the latest');
make_source('times');
resume('times');
$kafka->produce('times', map { { value => event('times', $_), timestamp => $moment + 1000 * $_ } } 0 .. 5);
wait_place('times', 6, 'messages of different times');
sql("SELECT audience.kafka_source_seek('times', audience.timestamp_text(to_timestamp(" . ($moment + 3000) . " / 1000.0)))");
wait_sql('seek to a timestamp: what is older is not read again', stat_sql('times', 'messages, next_offset'), '9|6');
is(events('times'), '0 1 2 3 4 5', 'nothing is stored twice');

#
# too many bad ones
#
make_source('breaker', options => '{"out_of_range":"stop"}');
$kafka->produce('breaker', map { { value => event('breaker', "b$_") } } 1 .. 5);
$kafka->produce('breaker', map { { value => $_ % 5 ? "bad $_" : event('breaker', $_) } } 1 .. 300);
resume('breaker');
wait_sql('too many bad ones: the source stops', stat_sql('breaker', 'state'), 'stopped');
like(sql(stat_sql('breaker', 'last_error')), qr/^more than 50 % of its latest messages are bad$/, 'and says why');
my $stopped_at = sql(place_sql('breaker')) || 0;
is(sql("SELECT count(*) FROM audience.kafka_dead_letters WHERE topic = 'breaker' AND \"offset\" >= $stopped_at"), 0, 'nothing of the batch is a dead letter');
cmp_ok(count('breaker'), '<=', 5 + 39, 'or an event');
is(sql("SELECT count(*) FROM audience.events WHERE user_id = 'breaker'"), sql("SELECT count(*) FROM audience.events WHERE user_id = 'breaker' AND event_id ~ '^b' OR user_id = 'breaker' AND event_id::int + 4 < $stopped_at"), 'before the place where it stands');
is(sql("SELECT stopped IS NOT NULL, paused FROM audience.kafka_sources WHERE id = 'breaker'"), 't|f', 'it is stopped, not paused');
resume('breaker');
wait_sql('resumed, it stops again', "SELECT stopped IS NOT NULL FROM audience.kafka_sources WHERE id = 'breaker'", 't');
$kafka->produce('breaker', map { { value => event('breaker', "g$_") } } 1 .. 400);
sql("SELECT audience.kafka_source_seek('breaker', '305', 0)");
resume('breaker');
wait_place('breaker', 705, 'with good ones it goes on');
is(sql("SELECT count(*) FROM audience.events WHERE event_id ~ '^g[0-9]+\$'"), 400, 'and stores them');
sql("SELECT audience.kafka_source_drop('breaker'); SELECT audience.kafka_source_create('breaker', options => '{\"max_bad\":1}')");
wait_place('breaker', 705, 'one that may take any number of bad ones reads all');
is(sql("SELECT count(*) FROM audience.kafka_dead_letters WHERE topic = 'breaker'"), 240, 'the bad ones are dead letters');
is(count('breaker'), 5 + 60 + 400, 'the good ones events, once each');

# partitions that come later are found, and begin with their first message
$kafka->add_partitions('times', 3);
$kafka->produce('times', { partition => 2, value => event('times', 'later') });

#
# trouble that is no message's fault
#
sql("ALTER DATABASE postgres SET lock_timeout = '100ms'; ALTER DATABASE postgres SET statement_timeout = '200ms'");
# not for what the test itself does
$ENV{PGOPTIONS} = '-c lock_timeout=0 -c statement_timeout=0';
make_source('trouble');
make_source('idle');
resume('trouble');
resume('idle');
wait_place('trouble', 0, 'a source to be troubled');
wait_place('idle', 0, 'and one beside it');
my $number = 0;

# Troubles it: begins, produces, waits until a query says that it is felt,
# ends, and waits for the messages.
sub trouble_ok
{
	my ($name, $begin, $felt, $end) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $session = $node->background_psql('postgres');
	my $place = sql(place_sql('trouble'));

	$session->query_safe($begin);
	$kafka->produce('trouble', { value => event('trouble', ++$number) }, { value => event('trouble', ++$number) });
	wait_sql("$name: it waits", $felt, 't');
	sleep 0.5;
	is(sql(place_sql('trouble')), $place, "$name: the offset does not move");
	$session->query_safe($end);
	$session->quit;
	wait_place('trouble', $place + 2, "$name: once it is over the messages are stored");
	wait_sql("$name: and nothing is backing off", "SELECT count(*) FROM audience.stat_kafka_source WHERE source IN ('trouble', 'idle') AND state = 'running'", 2);
	is(letters('trouble'), '', "$name: no dead letter");
	return;
}
my $waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'audience consumer' AND wait_event_type = 'Lock'";
my $backs_off = stat_sql('trouble', "state = 'backing off' AND last_error IS NOT NULL");
trouble_ok('a lock on events', 'BEGIN; LOCK TABLE audience.events', $waits, 'COMMIT');
trouble_ok('a lock on the definitions', "BEGIN; SELECT audience.segment_create('held', 'false')", "SELECT t.n < 2 FROM (SELECT count(*) FROM audience.events WHERE user_id = 'trouble' AND event_id::int > $number) t (n)", 'ROLLBACK');
trouble_ok('a lock on the user', q(BEGIN; SELECT audience.event_ingest('{"userId":"trouble","eventId":"0","eventType":"view"}')), $waits, 'COMMIT');
trouble_ok('a lock on the offset', 'BEGIN; SELECT 1 FROM audience.kafka_offsets FOR UPDATE', $waits, 'ROLLBACK');

sql(<<'SQL');
CREATE TABLE trouble (state text);
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	s text;
BEGIN
	FOR s IN SELECT state FROM public.trouble LOOP
		RAISE EXCEPTION 'trouble of class %', s USING ERRCODE = s;
	END LOOP;
	RETURN NULL;
END $$;
CREATE TRIGGER trouble BEFORE INSERT ON audience.events FOR EACH STATEMENT EXECUTE FUNCTION trouble();
SQL
foreach my $state (qw(53100 53200 57014 58030 XX000 42501))
{
	trouble_ok("an error of class $state", "INSERT INTO trouble VALUES ('$state')", $backs_off, 'DELETE FROM trouble');
}
is(sql(stat_sql('trouble', 'errors >= 6, last_error')), 't|trouble of class 42501', 'the view remembers');
is(sql("SELECT DISTINCT kind, id, sqlstate FROM audience.stat_kafka_errors WHERE id = 'trouble' AND sqlstate IN ('53100', '53200') ORDER BY 3"), "source|trouble|53100\nsource|trouble|53200", 'and so does that of errors');
sql('DROP TRIGGER trouble ON audience.events; CREATE TRIGGER trouble BEFORE UPDATE ON audience.kafka_offsets FOR EACH STATEMENT EXECUTE FUNCTION trouble()');
trouble_ok('an error as the offset moves', "INSERT INTO trouble VALUES ('53100')", $backs_off, 'DELETE FROM trouble');
sql('DROP TRIGGER trouble ON audience.kafka_offsets');
is(count('trouble'), $number + 1, 'every message is stored once');

# an error that would come again is the message's; retried when the cause is gone
sql('CREATE TRIGGER trouble BEFORE INSERT ON audience.events FOR EACH STATEMENT EXECUTE FUNCTION trouble()');
sql("INSERT INTO trouble VALUES ('P0001')");
my $place = sql(place_sql('trouble'));
$kafka->produce('trouble', { value => event('retried', '1') }, { value => '{"userId":"retried","eventType":"view"}', timestamp => $moment });
wait_place('trouble', $place + 2, "somebody's trigger refuses");
is(letters('trouble', 'sqlstate, message, attempts'), "P0001|trouble of class P0001|1\nP0001|trouble of class P0001|1", 'dead letters');
is(sql("SELECT bool_or(audience.kafka_dead_letter_retry(id)) FROM audience.kafka_dead_letters WHERE topic = 'trouble'"), 'f', 'retried too early');
is(letters('trouble', 'sqlstate, attempts'), "P0001|2\nP0001|2", 'they stay');
sql('DROP TRIGGER trouble ON audience.events');
is(sql("SELECT bool_and(audience.kafka_dead_letter_retry(id)) FROM audience.kafka_dead_letters WHERE topic = 'trouble'"), 't', 'retried when the cause is gone');
is(letters('trouble'), '', 'they are none any more');
is(events('retried'), '1 trouble/0/' . ($place + 1), 'but events');
is(sql("SELECT round(extract(epoch FROM occurred_at) * 1000) FROM audience.events WHERE user_id = 'retried' AND event_id LIKE 'trouble/%'"), $moment, 'of the time that they had');
sql('ALTER DATABASE postgres RESET lock_timeout; ALTER DATABASE postgres RESET statement_timeout');
delete $ENV{PGOPTIONS};

#
# offsets that are not there
#
foreach my $option ('', 'earliest', 'latest')
{
	my $topic = "range$option";
	make_source($topic, partitions => 3, options => $option ? qq({"out_of_range":"$option"}) : '{}');
	resume($topic);
	$kafka->produce($topic, map { { partition => 1, value => event($topic, $_) } } 0 .. 4);
	wait_place($topic, 5, "range $option: five are stored");
	pause($topic);
	$kafka->produce($topic, map { { partition => 1, value => event($topic, $_) } } 5 .. 9);
	$kafka->produce($topic, { partition => 2, value => event($topic, 'a') });
	$kafka->delete_records($topic, 1, 8);
	resume($topic);
	if ($option eq '')
	{
		wait_sql('offsets that were deleted: the source stops', stat_sql($topic, 'state', 1), 'stopped');
		like(sql(stat_sql($topic, 'last_error', 1)), qr/^offset 5 of partition 1 is not there: what was to come next has been deleted, or the topic was made anew$/, 'and says why');
		is(sql(place_sql($topic) . ' AND o.partition = 1'), 5, 'where it stood');
		sql("SELECT audience.kafka_source_seek('$topic', '8', 1)");
		resume($topic);
		wait_place($topic, 11, 'moved and resumed it goes on');
		is(events($topic), '0 1 2 3 4 8 9 a', 'with what is there');
	}
	else
	{
		wait_place($topic, 11, "option $option: it goes on");
		is(events($topic), '0 1 2 3 4' . ($option eq 'earliest' ? ' 8 9' : '') . ' a', 'with what is there, or what comes');
		like(sql("SELECT message FROM audience.stat_kafka_errors WHERE id = '$topic' AND partition = 1"), qr/^offset 5 is not there; going on from \d+$/, 'which is told');
		$kafka->produce($topic, { partition => 1, value => event($topic, 'b') });
		wait_place($topic, 12, 'and on');
	}
}

# it cannot be stopped, for now: what was received beside it is not stored, nor lost
make_source('unstoppable', partitions => 8);
resume('unstoppable');
$kafka->produce('unstoppable', map { { partition => 4, value => event('unstoppable', $_) } } 0 .. 4);
wait_place('unstoppable', 5, 'five are stored');
pause('unstoppable');
sql("CREATE TRIGGER trouble BEFORE UPDATE ON audience.kafka_sources FOR EACH ROW WHEN (NEW.stopped IS NOT NULL) EXECUTE FUNCTION trouble(); INSERT INTO trouble VALUES ('53100')");
sql("DELETE FROM trouble WHERE state <> '53100'");
$kafka->delete_records('unstoppable', 4, 5);
my $consumer = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience consumer'");
foreach my $try (1, 2)
{
	$kafka->produce('unstoppable', map { my $p = $_; map { { partition => $p, value => event('unstoppable', "$try-$p-$_") } } 1 .. 3 } 1, 6, 7);
	sql("SELECT audience.kafka_source_seek('unstoppable', '2', 4)");
	resume('unstoppable');
	wait_sql('one that cannot be stopped, for now', "SELECT count(*) >= $try FROM audience.stat_kafka_errors WHERE id = 'unstoppable' AND partition = 4", 't');
}
sql('DROP TRIGGER trouble ON audience.kafka_sources; DROP TABLE trouble CASCADE; DROP FUNCTION trouble');
resume('unstoppable');
wait_sql('is stopped later', stat_sql('unstoppable', 'state', 4), 'stopped');
is(sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience consumer'"), $consumer, 'by the same process');
sql("SELECT audience.kafka_source_seek('unstoppable', '5', 4)");
resume('unstoppable');
wait_place('unstoppable', 5 + 18, 'and goes on');
is(count('unstoppable'), 5 + 18, 'nothing is lost, or twice');

# a topic made anew
make_source('anew');
resume('anew');
$kafka->produce('anew', map { { value => event('anew', $_) } } 0 .. 9);
wait_place('anew', 10, 'a topic with ten messages');
$kafka->delete_topic('anew');
$kafka->create_topic('anew');
$kafka->produce('anew', map { { value => event('anew', "new $_") } } 0 .. 2);
wait_sql('made anew with three: the source stops', stat_sql('anew', 'state'), 'stopped');
like(sql(stat_sql('anew', 'last_error')), qr/is not there|made anew/, 'and says why');
sql("SELECT audience.kafka_source_seek('anew', 'earliest')");
resume('anew');
wait_place('anew', 3, 'sent to the beginning it goes on');
is(count('anew'), 13, 'and stores them');

#
# transactions
#
make_source('paid');
resume('paid');
foreach my $end (qw(abort commit abort))
{
	$kafka->begin('teller');
	$kafka->produce_in('teller', 'paid', map { { value => event('paid', "$end $_") } } 1 .. 3);
	$kafka->$end('teller');
}
wait_place('paid', 3 * (3 + 1), 'transactions: the offset moves behind their markers');
is(events('paid'), 'commit 1 commit 2 commit 3', 'what was aborted is not stored');
wait_sql('and nothing waits', stat_sql('paid', 'lag, state, dead_letters'), '0|running|0');

wait_sql('new partitions have been found', "SELECT string_agg(next_offset::text, ' ' ORDER BY partition) FROM audience.stat_kafka_source WHERE source = 'times'", '6 0 1');
is(events('times'), '0 1 2 3 4 5 later', 'with what is in them');

#
# segments
#
sub defined_as { return sql("SELECT string_agg(format('%s %s %s', id, name, rules), ', ' ORDER BY id COLLATE \"C\") FROM audience.segments WHERE id LIKE '$_[0]'"); }

make_source('defs', stream => 'segments', options => '{"max_bad":1}');
$kafka->create_topic('defs-out');
sql("SELECT audience.kafka_sink_create(t, 'segments') FROM unnest(ARRAY['defs', 'defs-out']) t");
my @definitions = (
	{ key => 'd1', value => '{"segmentId":"d1","action":"created","segment":{"id":"d1","name":"D 1","rules":"count(view) >= 2"}}' },
	{ key => 'd2', value => '{"segmentId":"d2","action":"created","segment":{"id":"d2","name":"D 2","rules":"IN SEGMENT \'d1\'"}}' },
	{ key => 'd3', value => '{"segmentId":"d3","action":"created","segment":{"id":"d3","name":"D 3","rules":"IN SEGMENT \'d4\'"}}' },
	{ key => 'd1', value => undef },
	{ key => 'd4', value => '{"segmentId":"d4","action":"created","segment":{"id":"d4","name":"D 4","rules":"plan ="}}' },
	{ key => "d\xff", value => undef },
	{ value => undef },
	{ key => 'd5', value => '{"segmentId":"d5","action":"created","segment":{"id":"d5","name":"D 5","rules":"true"}}' },
	{ key => 'd5', value => undef });
$kafka->produce('defs', @definitions);
resume('defs');
wait_place('defs', scalar(@definitions), 'definitions');
is(defined_as('d_'), 'd1 D 1 {"event": "view", "operator": "gte", "value": 2}, d2 D 2 {"segment": "d1"}', 'are made, and deleted');
is(letters('defs', '"offset", sqlstate'), "2|42704\n3|2BP01\n4|22P02\n5|22021\n6|22023", 'what cannot be is a dead letter');
is(sql("SELECT audience.segment_count('d2') > 0"), 't', 'they have members');
sql("SELECT audience.segment_create('Here', 'false', id => 'd6')");
$kafka->produce('defs', { key => 'd2', value => '{"segmentId":"d2","action":"updated","segment":{"id":"d2","name":"D two","rules":"IN SEGMENT \'viewers\'"}}' });
wait_sql('what is made here is sent', "SELECT sum(depth) FROM audience.stat_kafka_sink", 0);
wait_sql('updated', "SELECT name FROM audience.segments WHERE id = 'd2'", 'D two');
wait_sql('sent on', "SELECT sum(depth) FROM audience.stat_kafka_sink", 0);
my @out = map { join ' ', $_->{key}, $_->{value} =~ /"action" : "(\w+)"/ } $kafka->consume('defs-out', count => 6);
is_deeply([ sort @out ], [ 'd1 created', 'd2 created', 'd2 updated', 'd5 created', 'd5 deleted', 'd6 created' ], 'what was taken from one topic is sent on to another');
my @back = $kafka->consume('defs');
is(join(' ', sort map { $_->{key} } @back[ @definitions .. $#back ]), 'd2 d6', 'and not back');
# it is read once more from there, and changes nothing
wait_place('defs', @definitions + 2, 'what was sent is read');
is(defined_as('d6'), 'd6 Here false', 'and changes nothing');
is(sql("SELECT version FROM audience.segments WHERE id = 'd6'"), 1, 'at all');
my $session = $node->background_psql('postgres');
$session->query_safe(q(BEGIN; SELECT audience.event_ingest('{"userId":"open","eventType":"view"}')));
$kafka->produce('defs', { key => 'd7', value => '{"segmentId":"d7","action":"created","segment":{"id":"d7","name":"D 7","rules":"count(view) = 1"}}' });
wait_sql('an open transaction that has ingested is waited for', stat_sql('defs', "state = 'backing off' AND last_error IS NOT NULL"), 't');
$session->query_safe('COMMIT');
$session->quit;
wait_place('defs', @definitions + 3, 'until it ends');
is(sql("SELECT count(*) FROM audience.segment_members('d7') WHERE user_id = 'open'"), 1, 'and its user is not missed');
is(sql("SELECT count(*) FROM audience.kafka_dead_letters WHERE topic = 'defs'"), 5, 'no dead letter');

#
# another cluster behind the same name
#
my $other = start_kafka();
$other->create_topic('places');
$other->produce('places', map { { value => event('wrong', $_) } } 1 .. 100);
set_cluster($other);
wait_sql('another cluster: the source stops', stat_sql('places', 'state'), 'stopped');
like(sql(stat_sql('places', 'last_error')), qr/^cluster "main" calls itself ".*" now, not ".*": its offsets are not those of before$/, 'and says why');
is(count('wrong'), 0, 'nothing of it is stored');
sql("SELECT audience.kafka_source_seek('places', 'earliest')");
resume('places');
wait_place('places', 100, 'unless it is said to');
is(count('wrong'), 100, 'then all of it is');

verify_empty($node);
replay_ok($node);
unlike(slurp_file($node->logfile), qr/PANIC|\[\d+\] FATAL|terminated by signal/, 'nothing crashed');
done_testing();
