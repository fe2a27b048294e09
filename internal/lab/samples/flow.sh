#!/bin/sh
# A resource that misbehaves as files tell it: flow.sh VERB NAME DIR. It is online on
# a node while /run/flow-NAME exists there. DIR/NAME.VERB.hang, .fail and .lie, with
# or without .NODE behind, make the verb hang, fail, or do nothing and say that it worked.
verb=$1 name=$2 dir=$3 node=$(hostname)
for f in "$dir/$name.$verb" ; do
	for at in "" ".$node"; do
		[ -e "$f.hang$at" ] && exec sleep 1000
		[ -e "$f.fail$at" ] && exit 2
		[ -e "$f.lie$at" ] && [ "$verb" != monitor ] && exit 0
	done
done
case $verb in
start) echo "$node" >>"$dir/$name.starts"; : >"/run/flow-$name" ;;
stop | clean) rm -f "/run/flow-$name" ;;
monitor) [ -e "/run/flow-$name" ] && exit 110; exit 100 ;;
esac
