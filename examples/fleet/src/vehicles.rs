//! The vehicles of the company, and who drives them.

/// A vehicle, as every service knows it.
#[derive(Debug)]
pub(crate) struct Vehicle {
    /// Its name, in paths too.
    pub id: &'static str,
    pub kind: Kind,
    pub plate: &'static str,
    /// Of its paint: a hue in degrees.
    pub hue: u16,
    pub driver: Driver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Van,
    Truck,
    Car,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub first: &'static str,
    pub last: &'static str,
    pub licence: &'static str,
    pub since: u16,
    pub languages: &'static [&'static str],
    /// The hour at which the shift of eight begins.
    pub shift_from: u8,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Van => "van",
            Self::Truck => "truck",
            Self::Car => "car",
        }
    }
}

pub(crate) fn find(id: &str) -> Option<&'static Vehicle> {
    ALL.iter().find(|vehicle| vehicle.id == id)
}

pub(crate) const ALL: [Vehicle; 12] = [
    vehicle("avocet", Kind::Van, "AV 204", 205, driver("Mara", "Lindqvist", "B, BE", 2016, &["Swedish", "English"], 6)),
    vehicle("bittern", Kind::Truck, "AV 731", 28, driver("Jonas", "Okafor", "C, CE", 2011, &["English", "Igbo"], 5)),
    vehicle("curlew", Kind::Van, "AV 218", 150, driver("Ilse", "Brandt", "B", 2021, &["German", "Danish"], 8)),
    vehicle("dunlin", Kind::Car, "AV 090", 262, driver("Tomas", "Novak", "B", 2019, &["Czech", "English"], 7)),
    vehicle("egret", Kind::Van, "AV 223", 340, driver("Aiko", "Mori", "B, BE", 2018, &["Japanese", "English"], 9)),
    vehicle("fulmar", Kind::Truck, "AV 748", 190, driver("Pedro", "Salgado", "C", 2014, &["Portuguese"], 4)),
    vehicle("gannet", Kind::Van, "AV 231", 48, driver("Noor", "Haddad", "B", 2022, &["Arabic", "French"], 10)),
    vehicle("heron", Kind::Van, "AV 236", 222, driver("Eilidh", "Fraser", "B, C1", 2009, &["English", "Gaelic"], 6)),
    vehicle("ibis", Kind::Car, "AV 095", 12, driver("Luca", "Ferri", "B", 2023, &["Italian", "English"], 12)),
    vehicle("kestrel", Kind::Car, "AV 101", 95, driver("Sanna", "Aalto", "B", 2017, &["Finnish", "Swedish"], 11)),
    vehicle("lapwing", Kind::Truck, "AV 755", 288, driver("Dayo", "Adeyemi", "C, CE", 2012, &["Yoruba", "English"], 7)),
    vehicle("merlin", Kind::Van, "AV 249", 172, driver("Greta", "Holm", "B, BE", 2020, &["Danish", "English"], 13)),
];

const fn vehicle(id: &'static str, kind: Kind, plate: &'static str, hue: u16, driver: Driver) -> Vehicle {
    Vehicle { id, kind, plate, hue, driver }
}

const fn driver(
    first: &'static str,
    last: &'static str,
    licence: &'static str,
    since: u16,
    languages: &'static [&'static str],
    shift_from: u8,
) -> Driver {
    Driver { first, last, licence, since, languages, shift_from }
}
