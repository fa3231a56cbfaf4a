from qsft_robot.policy.open import open_policy as open_policy
from qsft_robot.types import Observation as Observation
