"""Passages and questions about them, on which finder heads are chosen.

All were written for this purpose: notes, letters, talk, reports and stories about people and things
that do not exist, and questions in other words than the passages. Each question is answered by one
passage alone. No benchmark has any of them.
"""

from __future__ import annotations

# (passage, question about it)
QUESTIONS: tuple[tuple[str, str], ...] = (
    (
        "The ferry to Skarholm leaves twice a day. In winter the second trip is often "
        "cancelled, because the harbour freezes over, and the baker keeps a sledge ready for "
        "the mail. Since the new pier was opened, the crossing takes thirty-five minutes "
        "instead of an hour.",
        "How long does the boat need to reach the island now?",
    ),
    (
        "Dear Odette, the piano arrived yesterday with one leg broken. The carrier says that he "
        "will pay for a joiner, but not for tuning it again. Until that is settled I practise "
        "at the parish hall, where a stove smokes so badly that I have to stop every half hour.",
        "Where is the writer playing while the instrument is repaired?",
    ),
    (
        "Beetles of this genus lay their eggs under the bark of fallen birches. The larvae feed "
        "on a fungus that the mother carries in small pockets behind her head. Without the "
        "fungus they starve within a week, even where there is plenty of wood.",
        "What do the young insects eat?",
    ),
    (
        "Tomasz: Did you find the charger? Lea: No, but my sister has the same one, she lends "
        "it to me until Friday. Tomasz: Then bring it to the cabin, the radio up there is empty "
        "too. Lea: I will, if she lets me. She is careful with her things.",
        "Who lent her the cable for the weekend?",
    ),
    (
        "The council of Marrow Heath voted nine to four against the bypass. Farmers had feared "
        "for their wells, and shopkeepers for their customers. The mayor, who had promised the "
        "road in three elections, said that she would now ask for a railway halt instead.",
        "What does the head of the town want to have built in place of the road?",
    ),
    (
        "For the dough, rub the cold butter into rye flour and add an egg yolk. Leave it in the "
        "cellar over night. Bake it on the lowest shelf until the edges are as brown as "
        "chestnuts, and do not open the door before that, or the middle will sink.",
        "Which flour is used in this recipe?",
    ),
    (
        "When Captain Ferro came back after eleven years, nobody in the street knew him except "
        "the parrot in the tailor's window. It called him by the nickname that he had had as a "
        "boy, and he stood there in the rain and could not stop laughing.",
        "Which animal recognised the sailor?",
    ),
    (
        "The pump must be bled before the first start. Loosen the brass screw at the top by two "
        "turns and wait until water without bubbles comes out. If the red lamp blinks more than "
        "five times, the filter is clogged and has to be washed in lukewarm water.",
        "What does a blinking light tell the user of the machine?",
    ),
    (
        "My uncle Benedikt has moved to Tromso, to mend nets for the fishery there. He used to "
        "teach geography, but he says that forty maps on a wall are not the same as one coast "
        "in front of the door. He asked me to send him his chess clock.",
        "What was the job of the narrator's relative before he went north?",
    ),
    (
        "In the third quarter the company sold fewer lamps but more shades. Turnover fell to 41 "
        "million crowns, while costs stayed the same. The board blames a strike at the glass "
        "works and expects that lost orders will come back before Easter.",
        "Why did the firm earn less?",
    ),
    (
        "Rule seven: a player who touches the net loses the point, but keeps the serve. Rule "
        "eight: the referee may stop a match if there is lightning, and play goes on with the "
        "same score. Rule nine: shoes with spikes are not allowed on the clay.",
        "What happens to the score when a game is interrupted by a storm?",
    ),
    (
        "The abbey was founded in 1136 by monks who had quarrelled with their bishop. They dug "
        "fish ponds, of which two still hold carp, and copied books on medicine. After a fire "
        "in 1522 only the gatehouse was rebuilt, and sheep were kept in the nave.",
        "When did the monastery burn?",
    ),
    (
        "Priya: I changed my mind about the sofa. The green one is too wide for the landing. "
        "Jonas: So the grey one? Priya: Yes, and please cancel the delivery on Tuesday, I am at "
        "the dentist then. Jonas: Done, they come on Thursday after four.",
        "On which day is the furniture brought?",
    ),
    (
        "Seen from the valley, the glacier looks like a torn sheet. It has lost sixty metres "
        "since the hut was built, and the path that once ended at the ice now ends at a lake. "
        "Guides take their guests over a rope bridge that was paid for by a brewery.",
        "Who gave the money for the crossing in the mountains?",
    ),
    (
        "Please note that the reading room is closed in the second week of March, when the "
        "shelves are counted. Loans that end in that week are prolonged by themselves. Atlases "
        "and scores can be ordered as before, but they have to be used at the front desk.",
        "Why can nobody use the library in early spring?",
    ),
    (
        "The girl had hidden the key in a hollow loaf, and the loaf on the highest beam of the "
        "mill. So the robbers searched the chests, the beds and even the well, and went off "
        "with nothing but a sack of flour, which had a hole in it and showed the way they took.",
        "In what had the child concealed the thing the thieves looked for?",
    ),
    (
        "I am allergic to walnuts, so I always read the label twice. Once, at a wedding in "
        "Ghent, I did not, and spent the night in a clinic. The bride sent me a basket of plums "
        "afterwards, and we have written to each other every autumn since.",
        "What can the speaker not eat?",
    ),
    (
        "Sound travels faster in warm air than in cold air, and faster still in water. A whale "
        "that calls off one coast can be heard off another, because a layer of the sea at about "
        "a thousand metres bends the sound back and keeps it from being scattered.",
        "At what depth is the noise of the animals carried so far?",
    ),
    (
        "The orchestra had lost its second horn to influenza, so the conductor asked a student "
        "from the balcony. She had never played the piece, but she knew it from the records of "
        "her grandfather, who had been a postman and a great listener.",
        "Who replaced the sick musician?",
    ),
    (
        "We signed the lease on the shop at 12 Corder Lane for six years. The rent is 900 a "
        "month, and the first two months are free because the roof leaks. Renata wants to sell "
        "buttons and ribbons there, and I am to do the accounts on Sundays.",
        "What is going to be sold in the rented rooms?",
    ),
    (
        "A crossbill can open a cone that no other finch can open, since the tips of its bill "
        "pass each other like the blades of shears. Some birds cross to the left and some to "
        "the right, and in most flocks there are about as many of either kind.",
        "What is special about the beak of this bird?",
    ),
    (
        "Lieutenant Oyelaran reported that the bridge at Senn could carry carts but no guns. "
        "The general did not believe him and lost two cannons and a mule in the river. In his "
        "memoirs he wrote that the bridge had been blown up by the enemy.",
        "Whose warning did the commander ignore?",
    ),
    (
        "To reset the password, hold both buttons until the screen shows a padlock. Then enter "
        "the number from the sticker under the battery. The old settings are kept, but the "
        "names of the last twenty callers are deleted and can't be brought back.",
        "What is lost when somebody starts over with a new code?",
    ),
    (
        "Grandmother grew up in a lighthouse. There were no other children on the rock, so she "
        "taught the gulls to come when she rang a spoon against a cup. She was nine when she "
        "saw a tree for the first time, and she was afraid of its noise.",
        "How old was she when she first came across something that grows leaves?",
    ),
)
