# AudCatalog: everything that the catalogs say of the extension in a database, as
# lines of text that do not depend on how it came there: for comparing one that
# was updated with one that was installed.
#
# Numbers of columns are told as they are: the engine knows the columns of its
# tables by their places.
package AudCatalog;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(catalog_of catalog_differences);

# Each query gives lines; :member is the extension's objects as (classid, objid), and
# :part what belongs to its tables besides.
my @queries = (
	# the extension, and which tables a dump takes
	q{SELECT format('extension: version %s, schema %s, relocatable %s', extversion, extnamespace::regnamespace, extrelocatable) FROM pg_extension WHERE extname = 'audience_manager'},
	q{SELECT format('dumped: %s %s', c.oid::regclass, e.extcondition[n]) FROM pg_extension e, generate_subscripts(e.extconfig, 1) n JOIN pg_class c ON true
		WHERE e.extname = 'audience_manager' AND c.oid = e.extconfig[n]},
	q{SELECT format('schema %s: owner %s, privileges %s', nspname, pg_get_userbyid(nspowner), :acl(nspacl)) FROM pg_namespace WHERE nspname = 'audience'},
	# members, and what is in the schema and is none
	q{SELECT 'member: ' || pg_describe_object(classid, objid, 0) FROM :member},
	q{SELECT 'no member: ' || pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d LEFT JOIN :member ON member.classid = d.classid AND member.objid = d.objid
		WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'audience'::regnamespace AND member.objid IS NULL
			AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass) AND d.objid NOT IN (SELECT objid FROM :part)},
	# tables, views, sequences
	q{SELECT format('%s: kind %s, persistence %s, access %s, owner %s, options %s, of its toast table %s, replica identity %s, row security %s %s, privileges %s', c.oid::regclass, c.relkind,
			c.relpersistence, a.amname, pg_get_userbyid(c.relowner), c.reloptions, t.reloptions, c.relreplident, c.relrowsecurity, c.relforcerowsecurity, :acl(c.relacl))
		FROM :member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid LEFT JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_class t ON t.oid = c.reltoastrelid},
	q{SELECT format('%s, column %s: %s %s, collation %s, not null %s, default %s, identity %s, generated %s, storage %s, compression %s, statistics %s, options %s, dropped %s, privileges %s',
			c.oid::regclass, a.attnum, a.attname, CASE WHEN NOT a.attisdropped THEN format_type(a.atttypid, a.atttypmod) END, a.attcollation::regcollation, a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
			a.attidentity, a.attgenerated, a.attstorage, a.attcompression, nullif(a.attstattarget, -1),
			-- one that some minor versions set by themselves is none of ours
			(SELECT string_agg(o, ',') FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg_attver=%'), a.attisdropped, :acl(a.attacl))
		FROM :member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
			LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE c.relkind <> 'S'},
	q{SELECT format('view %s: %s', c.oid::regclass, pg_get_viewdef(c.oid)) FROM :member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid WHERE c.relkind IN ('v', 'm')},
	q{SELECT format('sequence %s: %s', s.seqrelid::regclass, to_jsonb(s) - 'seqrelid' - 'seqtypid' || jsonb_build_object('type', s.seqtypid::regtype,
			'of', (SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype = 'a')))
		FROM :member JOIN pg_sequence s ON classid = 'pg_class'::regclass AND s.seqrelid = objid},
	# what belongs to tables
	q{SELECT format('index: %s, primary %s, valid %s, replica identity %s, clustered %s, options %s', pg_get_indexdef(i.indexrelid), i.indisprimary, i.indisvalid, i.indisreplident, i.indisclustered, c.reloptions)
		FROM :part JOIN pg_index i ON classid = 'pg_class'::regclass AND i.indexrelid = objid JOIN pg_class c ON c.oid = i.indexrelid},
	q{SELECT format('constraint %s of %s: %s, validated %s', c.conname, c.conrelid::regclass, pg_get_constraintdef(c.oid), c.convalidated) FROM :part JOIN pg_constraint c ON classid = 'pg_constraint'::regclass AND c.oid = objid},
	q{SELECT format('trigger: %s, enabled %s', pg_get_triggerdef(t.oid), t.tgenabled) FROM :part JOIN pg_trigger t ON classid = 'pg_trigger'::regclass AND t.oid = objid},
	q{SELECT format('rule: %s', pg_get_ruledef(r.oid)) FROM :part JOIN pg_rewrite r ON classid = 'pg_rewrite'::regclass AND r.oid = objid WHERE r.rulename <> '_RETURN'},
	q{SELECT format('policy %s of %s: %s %s %s %s', p.polname, p.polrelid::regclass, p.polcmd, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
		FROM :part JOIN pg_policy p ON classid = 'pg_policy'::regclass AND p.oid = objid},
	# functions with bodies and settings, types, casts, operators
	q{SELECT format('function %s: %s, owner %s, privileges %s', p.oid::regprocedure, pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner), :acl(p.proacl))
		FROM :member JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid WHERE p.prokind <> 'a'},
	q{SELECT format('aggregate %s: %s, owner %s, privileges %s', p.oid::regprocedure, to_jsonb(a), pg_get_userbyid(p.proowner), :acl(p.proacl))
		FROM :member JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid JOIN pg_aggregate a ON a.aggfnoid = p.oid},
	q{SELECT format('type %s: %s', t.oid::regtype, to_jsonb(t) - ARRAY['oid', 'typname', 'typnamespace', 'typowner', 'typrelid', 'typelem', 'typarray', 'typbasetype', 'typacl'] ||
			jsonb_build_object('owner', pg_get_userbyid(typowner), 'element', typelem::regtype, 'base', typbasetype::regtype, 'privileges', :acl(typacl)))
		FROM :member JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid WHERE t.typtype <> 'c'},
	q{SELECT format('cast %s to %s: %s, %s, %s', castsource::regtype, casttarget::regtype, castfunc::regprocedure, castcontext, castmethod) FROM :member JOIN pg_cast c ON classid = 'pg_cast'::regclass AND c.oid = objid},
	q{SELECT format('operator %s: %s, result %s, commutator %s, negator %s, selectivity %s %s, merges %s, hashes %s, owner %s', o.oid::regoperator, oprcode, oprresult::regtype, oprcom::regoperator, oprnegate::regoperator,
			oprrest, oprjoin, oprcanmerge, oprcanhash, pg_get_userbyid(oprowner)) FROM :member JOIN pg_operator o ON classid = 'pg_operator'::regclass AND o.oid = objid},
	q{SELECT format('operator class %s of %s for %s: family %s, default %s, key %s', opcname, amname, opcintype::regtype, opfname, opcdefault, opckeytype::regtype)
		FROM :member JOIN pg_opclass c ON classid = 'pg_opclass'::regclass AND c.oid = objid JOIN pg_am a ON a.oid = opcmethod JOIN pg_opfamily f ON f.oid = opcfamily},
	q{SELECT format('operator %s of family %s: strategy %s, purpose %s, sorts by %s', amopopr::regoperator, opfname, amopstrategy, amoppurpose, amopsortfamily)
		FROM :member JOIN pg_opfamily f ON classid = 'pg_opfamily'::regclass AND f.oid = objid JOIN pg_amop o ON o.amopfamily = f.oid},
	q{SELECT format('function %s of family %s: %s for %s, %s', amproc::regprocedure, opfname, amprocnum, amproclefttype::regtype, amprocrighttype::regtype)
		FROM :member JOIN pg_opfamily f ON classid = 'pg_opfamily'::regclass AND f.oid = objid JOIN pg_amproc p ON p.amprocfamily = f.oid},
	# comments, and privileges from the start, which a dump leaves out
	q{SELECT format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
		FROM (SELECT * FROM :member UNION ALL SELECT * FROM :part UNION ALL SELECT 'pg_namespace'::regclass, 'audience'::regnamespace
			UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = 'audience_manager') o
			JOIN pg_description d ON d.classoid = o.classid AND d.objoid = o.objid},
	q{SELECT format('privileges from the start on %s: %s', pg_describe_object(i.classoid, i.objoid, i.objsubid), :acl(i.initprivs))
		FROM :member JOIN pg_init_privs i ON i.classoid = classid AND i.objoid = objid},
	# rows of the install script
	q{SELECT format('aggregate: %s', to_jsonb(a)) FROM audience.aggregates a WHERE number < 1000},
	q{SELECT format('trait: %s', to_jsonb(t)) FROM audience.traits t WHERE built_in},
);

# The lines of a database, sorted.
sub catalog_of
{
	my ($node, $db) = @_;
	my $member = q{(SELECT DISTINCT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'audience_manager')) member};
	my $part = <<'SQL';
(SELECT 'pg_class'::regclass::oid AS classid, i.indexrelid AS objid FROM pg_index i WHERE i.indrelid IN (SELECT objid FROM :tables)
UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid IN (SELECT objid FROM :tables) OR contypid IN (SELECT objid FROM :tables)
UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM :tables) AND NOT tgisinternal
UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT objid FROM :tables)
UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT objid FROM :tables)) part
SQL
	my @lines;

	$part =~ s/:tables/$member/g;
	foreach my $query (@queries)
	{
		my $sql = $query;

		$sql =~ s/:member/$member/g;
		$sql =~ s/:part/$part/g;
		$sql =~ s/:acl\(([^)]*)\)/(SELECT string_agg(acl::text, ',' ORDER BY acl::text) FROM unnest($1) acl)/g;
		# one line each
		my $out = $node->safe_psql($db, "SELECT replace(line, E'\\n', '\\n') FROM ($sql) q (line)");
		push @lines, split /\n/, $out;
	}
	@lines = sort @lines;
	return @lines;
}

# What one has and the other has not, each line with a sign in front.
sub catalog_differences
{
	my ($old, $new) = @_;
	my (%old, %new);

	$old{$_}++ foreach @$old;
	$new{$_}++ foreach @$new;
	return ((map { "- $_" } grep { !$new{$_} } sort keys %old), (map { "+ $_" } grep { !$old{$_} } sort keys %new));
}

1;
