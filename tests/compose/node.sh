# One node of a test swarm: `founder`, `manager` or `worker`. The founder puts both join tokens into
# /shared; the others take theirs from there. A container that starts again is the same node still.
set -eu
role=$1

swarmlet daemon --runtime process &
daemon=$!
trap 'kill -TERM "$daemon"; wait "$daemon"' TERM INT
until swarmlet info >/dev/null 2>&1; do
  kill -0 "$daemon"
  sleep 0.2
done

if [ ! -e /var/lib/swarmlet/swarm/state.json ]; then
  if [ "$role" = founder ]; then
    swarmlet init
    for kind in worker manager; do
      swarmlet join-token -q "$kind" >"/shared/$kind.new"
      mv "/shared/$kind.new" "/shared/$kind"
    done
  else
    until [ -s "/shared/$role" ]; do sleep 0.2; done
    swarmlet join --token-file "/shared/$role" founder
  fi
fi
wait "$daemon"
