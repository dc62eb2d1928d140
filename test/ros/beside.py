"""What is done beside a running graph, which has to be waited for in the thread that started it."""

import threading

from perception_nodes.graph.supervisor import Supervisor


def beside(nodes, act):
    """Start a graph, act in another thread, stop it; raises what `act` raised."""
    failure: list[BaseException] = []

    def acting():
        try:
            act(supervisor)
        except BaseException as error:
            failure.append(error)
        finally:
            supervisor.stop()

    with Supervisor(nodes) as supervisor:
        actor = threading.Thread(target=acting)
        actor.start()
        try:
            supervisor.wait()
        finally:
            actor.join()  # it is in the domain, too, which is swept when nobody is left
    if failure:
        raise failure[0]
